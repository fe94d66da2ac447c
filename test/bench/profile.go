package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// profiler fetches profiles from the servers under load. An empty directory
// means that it does nothing. Its failures are printed and end nothing.
type profiler struct {
	dir   string
	round int
	log   io.Writer
}

func (f profiler) on() bool { return f.dir != "" }

// begin fetches a CPU profile for the length of a workload; the function that
// it returns waits until it has come.
func (f profiler) begin(p *process, workload string, d time.Duration) (wait func()) {
	if !f.on() || !p.subject.pprof {
		return func() {}
	}
	var fetch sync.WaitGroup
	seconds := max(1, int(d.Seconds()))
	fetch.Go(func() {
		f.fetch(p, fmt.Sprintf("profile?seconds=%d", seconds), workload, "cpu")
	})
	return fetch.Wait
}

// heap fetches what the server holds and what it has allocated.
func (f profiler) heap(p *process, workload string) {
	if f.on() {
		f.fetch(p, "heap", workload, "heap")
	}
}

func (f profiler) fetch(p *process, what, workload, kind string) {
	who := p.subject.Name
	if p.role != "" {
		who += "-" + p.role
	}
	name := filepath.Join(f.dir, fmt.Sprintf("%s-%s-%d.%s.pprof", who, workload, f.round, kind))
	if err := download("http://"+p.addr+"/debug/pprof/"+what, name); err != nil {
		fmt.Fprintf(f.log, "no profile: %v\n", err)
	}
}

// download stores what a URL answers in a file.
func download(url, name string) error {
	client := http.Client{Timeout: 2 * time.Minute}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(name, body, 0o644)
}
