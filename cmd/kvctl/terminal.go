package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// askPassword reads one line, unseen when in is a terminal. The prompt goes
// to out, as etcdctl's does.
func askPassword(prompt string, in io.Reader, out io.Writer) (string, error) {
	fmt.Fprint(out, prompt)
	defer fmt.Fprintln(out)
	if f, ok := in.(*os.File); ok && isTerminal(f) {
		show, err := hideTyping(f)
		if err != nil {
			return "", fmt.Errorf("turn off echo for the password: %w", err)
		}
		defer show()
	}
	line, err := readLine(in)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// hideTyping turns off echo until show is called, also when a signal ends the
// process before that.
func hideTyping(f *os.File) (show func(), err error) {
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	// Should this fail, the terminal is gone and there is nobody to tell.
	restore := func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }

	// Signals first: one that came in between would leave the echo off for good.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	silent := *before
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		signal.Stop(signals)
		return nil, err
	}
	read, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case sig := <-signals:
			restore()
			os.Exit(128 + int(sig.(unix.Signal)))
		case <-read:
		}
	}()
	return func() {
		signal.Stop(signals)
		close(read)
		<-ended
		restore()
	}, nil
}

// readLine takes one line and not a byte more: what follows on in belongs to
// the command.
func readLine(in io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		n, err := in.Read(b)
		if n == 1 && b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[:n]...)
		switch {
		case err == io.EOF:
			return string(line), nil
		case err != nil:
			return "", err
		}
	}
}
