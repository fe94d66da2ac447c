// Command kvctl talks to a kvd cluster, or to any other that speaks the etcd
// v3 API. Its commands, flags, output and exit codes are etcdctl's, so that a
// script written for one runs with the other. It opens no file of a member
// (those verbs are kvd's) and imports nothing from kvd/internal.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/grpclog"
)

// This build's own version, and what it was built from; the linker sets them with
// -X main.version=….
var (
	version = "0.0.0-dev"
	commit  = "unknown"
)

func main() {
	cobra.EnablePrefixMatching = true // "kvctl comp 7", as etcdctl allows
	p := &program{
		in:       os.Stdin,
		out:      os.Stdout,
		errs:     os.Stderr,
		environ:  os.Environ(),
		terminal: isTerminal(os.Stderr),
		grpcLog:  grpclog.SetLoggerV2,
	}
	os.Exit(p.run(os.Args[1:]))
}
