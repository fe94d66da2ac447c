package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"kvd/internal/daemon"
)

// echo is how soon after the first a signal to end is taken for the same one:
// timeout(1) and some supervisors signal the process and then its group.
const echo = 200 * time.Millisecond

// signals are what the process is told from outside while it runs.
type signals struct {
	reload chan daemon.Reread
	caught chan os.Signal
	ended  chan struct{}
}

// catch begins to listen for signals: the first to end calls stop, a second one
// ends the process at once. SIGHUP reads the configuration again.
func catch(log *slog.Logger, stop func(), reread func() daemon.Reread) *signals {
	s := &signals{reload: make(chan daemon.Reread, 1), caught: make(chan os.Signal, 4), ended: make(chan struct{})}
	signal.Notify(s.caught, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		defer close(s.ended)
		var told time.Time
		for got := range s.caught {
			switch {
			case got == syscall.SIGHUP:
				select {
				case s.reload <- reread():
				default: // one waits already, and reads the same files
				}
			case told.IsZero():
				told = time.Now()
				log.Info("received signal; shutting down", "signal", got.String())
				stop()
			case time.Since(told) < echo:
			default:
				log.Warn("told to stop again; ending at once", "signal", got.String())
				os.Exit(exitStatus(got))
			}
		}
	}()
	return s
}

// release gives the signals their usual effect again.
func (s *signals) release() {
	signal.Stop(s.caught)
	close(s.caught)
	<-s.ended
}

// exitStatus is what a shell makes of a process that a signal ended.
func exitStatus(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return 1
}
