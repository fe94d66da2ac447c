// Command kvd is the daemon: it runs one member of a key-value store that
// speaks the etcd v3 API. It also has the verbs that open its files.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

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
	t, ordered := newTool(out, errs), verbFirst(args)
	if t.isVerb(ordered) {
		return t.run(ordered)
	}
	return runDaemon(args, out, errs)
}

// verb is one that reads its arguments by itself.
type verb func(args []string, out, errs io.Writer) int

func runVersion(_ []string, out, _ io.Writer) int { return printVersion(out) }
func runHelp(_ []string, out, _ io.Writer) int    { return printUsage(out) }

func runMemberHere(args []string, out, errs io.Writer) int {
	return runMember(args, os.Stdin, out, errs)
}

func printVersion(out io.Writer) int {
	fmt.Fprintf(out, "kvd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s\netcd API: %s\n", version, commit, goVersion(), platform(), apiVersion)
	return 0
}

func printUsage(out io.Writer) int {
	if err := config.Usage(out); err != nil {
		return 1
	}
	return 0
}

// load reads the configuration of this process.
func load(args []string) (*config.Config, error) {
	return config.Load(args, os.Environ(), os.ReadFile)
}

// sayRefused says why the configuration cannot be started with: where it goes to
// the journal in any case, as a record that its MESSAGE_ID finds.
func sayRefused(err error, errs io.Writer) {
	if sd.UnderJournal() {
		if journal, failed := sd.NewJournal("", slog.LevelInfo); failed == nil {
			slog.New(journal).Error(err.Error(), sd.Message(sd.MessageConfig))
			journal.Close() //nolint:errcheck // the process ends
			return
		}
	}
	fmt.Fprintln(errs, err)
}

// runDaemon runs a member until it is told to stop. SIGTERM and SIGINT end it
// with grace, a second one at once; SIGHUP reads the configuration again.
func runDaemon(args []string, out, errs io.Writer) int {
	c, err := load(args)
	switch {
	case errors.Is(err, config.ErrHelp):
		return printUsage(out)
	case errors.Is(err, config.ErrVersion):
		return printVersion(out)
	case err != nil:
		sayRefused(err, errs)
		return config.ExitStatus
	}
	log, err := daemon.NewLogger(c.Log)
	if err != nil {
		fmt.Fprintln(errs, "kvd:", err)
		return 1
	}
	defer log.Close() //nolint:errcheck // there is nowhere left to say so
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := catch(log.Logger, cancel, func() daemon.Reread {
		again, err := load(args)
		return daemon.Reread{Config: again, Err: err}
	})
	defer s.release()
	log.Info("starting kvd", "version", version, "commit", commit, "etcd-version", apiVersion, "config-file", c.File)
	err = daemon.Run(ctx, daemon.Inputs{Config: c, Log: log, Version: version, Commit: commit, Notifier: sd.NewNotifier(), Reload: s.reload})
	var refused *daemon.ConfigError
	var removed *daemon.RemovedError
	switch {
	case errors.As(err, &removed):
		log.Error("kvd ends and should not be started again here", sd.Message(sd.MessageRemoved), slog.Any("error", err))
		return config.ExitStatus
	case errors.As(err, &refused):
		log.Error("the configuration cannot be used", sd.Message(sd.MessageConfig), slog.Any("error", err))
		return config.ExitStatus
	case daemon.Unfit(err):
		log.Error("the member must be replaced", sd.Message(sd.MessageUnfit), slog.Any("error", err))
		return daemon.ExitUnfit
	case err != nil:
		log.Error("kvd ends", sd.Message(sd.MessageEnded), slog.Any("error", err))
		return 1
	}
	return 0
}
