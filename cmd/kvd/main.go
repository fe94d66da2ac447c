// Command kvd is the daemon: it runs one member of a key-value store that
// speaks the etcd v3 API. It also has the verbs that open its files.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"kvd/internal/config"
	"kvd/internal/daemon"
	"kvd/internal/sd"
)

// What the build says of itself; the linker fills them in.
var (
	version = "0.1.0-dev"
	commit  = "unknown"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run chooses the verb; without one the daemon runs.
func run(args []string, out, errs io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "config":
			return runConfig(args[1:], out, errs)
		case "version":
			return printVersion(out)
		case "help":
			args = []string{"--help"}
		}
	}
	for _, arg := range args {
		switch arg {
		case "-h", "-help", "--help":
			if err := config.Usage(out); err != nil {
				return 1
			}
			return 0
		case "-version", "--version", "--version=true":
			return printVersion(out)
		}
	}
	return runDaemon(args, errs)
}

func printVersion(out io.Writer) int {
	fmt.Fprintf(out, "kvd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s\netcd API: %s\n", version, commit, goVersion(), platform(), apiVersion)
	return 0
}

// load reads the configuration of this process.
func load(args []string) (*config.Config, error) {
	return config.Load(args, os.Environ(), os.ReadFile)
}

// runDaemon runs a member until it is told to stop. SIGTERM and SIGINT end it
// with grace, a second one at once; SIGHUP reads the configuration again.
func runDaemon(args []string, errs io.Writer) int {
	c, err := load(args)
	if err != nil {
		fmt.Fprintln(errs, err)
		return config.ExitStatus
	}
	log, err := daemon.NewLogger(c.Log)
	if err != nil {
		fmt.Fprintln(errs, "kvd:", err)
		return config.ExitStatus
	}
	defer log.Close() //nolint:errcheck // there is nowhere left to say so
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reload := make(chan daemon.Reread, 1)
	go func() {
		for s := range signals {
			switch {
			case s == syscall.SIGHUP:
				again, err := load(args)
				select {
				case reload <- daemon.Reread{Config: again, Err: err}:
				default: // one waits already, and reads the same files
				}
			case ctx.Err() != nil:
				log.Warn("told to stop again; ending at once")
				os.Exit(exitStatus(s))
			default:
				log.Info("received signal; shutting down", "signal", s.String())
				cancel()
			}
		}
	}()
	log.Info("starting kvd", "version", version, "commit", commit, "etcd_version", apiVersion)
	err = daemon.Run(ctx, daemon.Inputs{Config: c, Log: log, Version: version, Commit: commit, Notifier: sd.NewNotifier(), Reload: reload})
	var stop *daemon.ConfigError
	switch {
	case errors.As(err, &stop):
		log.Error("the configuration cannot be used", "error", err)
		return config.ExitStatus
	case err != nil:
		log.Error("kvd ends", "error", err)
		return 1
	}
	return 0
}

func exitStatus(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return 1
}
