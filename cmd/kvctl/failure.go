package main

import (
	"errors"
	"fmt"
)

// Exit codes, etcdctl's: scripts tell a refused argument from a dead server
// by them.
const (
	exitError         = 1   // the request was refused, or cobra could not read the command line
	exitBadConnection = 2   // no usable connection, and every lease query
	exitInvalidInput  = 3   // standard input of txn and watch
	exitBadFeature    = 4   // a known flag with a value it does not take
	exitInterrupted   = 5   // a stream or download that ended before its time
	exitIO            = 6   // our own output could not be written
	exitBadArgs       = 128 // wrong arguments
)

// failure is an error with the exit code it ends the process with.
type failure struct {
	code int
	err  error  // nil: already told, print nothing more
	hint string // what to do next; shown to people only
}

func (f *failure) Error() string {
	if f.err == nil {
		return fmt.Sprintf("exit status %d", f.code)
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

func fail(code int, err error) error {
	return &failure{code: code, err: err}
}

func failf(code int, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

// report prints what a command returned and turns it into an exit code.
func (p *program) report(err error) int {
	if err == nil {
		return 0
	}
	f := &failure{code: exitError, err: err}
	errors.As(err, &f)
	if f.err != nil {
		fmt.Fprintln(p.errs, "Error:", f.err)
	}
	if f.hint != "" && p.terminal {
		fmt.Fprintln(p.errs, "Hint:", f.hint)
	}
	return f.code
}
