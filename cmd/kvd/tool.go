package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kvd/internal/offline"
)

// Exit codes of the verbs that open files, as etcdutl has them.
const (
	exitError      = 1
	exitBadFeature = 4   // a known flag with a value that it does not take
	exitIO         = 6   // our own output could not be written
	exitBadArgs    = 128 // wrong arguments
)

// failure is an error with the exit code that it ends the process with.
type failure struct {
	code int
	err  error // nil: everything is said already
}

func (f *failure) Error() string {
	if f.err == nil {
		return fmt.Sprintf("exit status %d", f.code)
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

func failf(code int, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

// tool is one run of a verb: the world that it was started in and the flags
// that all verbs have.
type tool struct {
	in       io.Reader
	out      io.Writer
	errs     io.Writer
	terminal bool // errs is a person's
	now      func() time.Time

	format  string
	timeout time.Duration
	outcome error // what the verb returned; cobra never sees it
}

func newTool(out, errs io.Writer) *tool {
	return &tool{in: os.Stdin, out: out, errs: errs, terminal: isTerminal(errs), now: time.Now}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// run does what the arguments ask for and returns the exit code.
func (t *tool) run(args []string) int {
	root := t.root()
	root.SetArgs(args)
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.errs)
	if cmd, err := root.ExecuteC(); err != nil {
		fmt.Fprintln(t.errs, "Error:", err)
		if strings.HasPrefix(err.Error(), "unknown command") {
			fmt.Fprintf(t.errs, "Run '%s --help' for usage.\n", cmd.CommandPath())
		} else {
			fmt.Fprintln(t.errs, cmd.UsageString())
		}
		return exitError
	}
	return t.report(t.outcome)
}

// report prints what a verb returned and turns it into an exit code.
func (t *tool) report(err error) int {
	if err == nil {
		return 0
	}
	f := &failure{code: exitError, err: err}
	errors.As(err, &f)
	if f.err != nil {
		fmt.Fprintln(t.errs, "Error:", err)
	}
	return f.code
}

// does adapts a verb that can fail to cobra.
func (t *tool) does(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) {
	return func(cmd *cobra.Command, args []string) { t.outcome = f(cmd, args) }
}

// formats are the values of --write-out.
var formats = []string{"fields", "json", "protobuf", "simple", "table"}

// bindFile gives a verb that opens files the flags that all of them have.
func (t *tool) bindFile(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.DurationVar(&t.timeout, "timeout", 10*time.Second, "time to wait to obtain a file lock on db file, 0 to block indefinitely")
	flags.StringVarP(&t.format, "write-out", "w", "simple", "set the output format (fields, json, protobuf, simple, table)")
	_ = cmd.RegisterFlagCompletionFunc("write-out", // fails only for an unknown flag
		func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return formats, cobra.ShellCompDirectiveDefault
		})
}

// files are the options of a verb that opens files.
func (t *tool) files() (offline.Options, error) {
	if t.timeout < 0 {
		return offline.Options{}, failf(exitBadArgs, "--timeout must not be negative, and is %v", t.timeout)
	}
	o := offline.Options{Timeout: t.timeout}
	if t.terminal {
		o.Progress = (&bar{out: t.errs, now: t.now}).show
	}
	return o, nil
}

// answer is something to print: its JSON form is its own.
type answer interface {
	fields() []field
	row() (header, row []string)
}

type field struct {
	name  string
	value any
}

// checkFormat refuses a format before any work is done.
func (t *tool) checkFormat() error {
	switch {
	case !slices.Contains(formats, t.format):
		return failf(exitBadFeature, "unsupported output format")
	case t.format == "protobuf":
		return failf(exitBadFeature, "protobuf not supported as output format")
	}
	return nil
}

// print writes a to standard output, in one piece.
func (t *tool) print(a answer) error {
	var text strings.Builder
	header, row := a.row()
	switch t.format {
	case "simple":
		fmt.Fprintln(&text, strings.Join(row, ", "))
	case "fields":
		for _, f := range a.fields() {
			fmt.Fprintf(&text, "%q : %v\n", f.name, f.value)
		}
	case "json":
		line, err := json.Marshal(a)
		if err != nil {
			return err
		}
		fmt.Fprintln(&text, string(line))
	case "table":
		cfg := tablewriter.NewConfigBuilder().WithRowAlignment(tw.AlignRight).Build()
		table := tablewriter.NewTable(&text, tablewriter.WithConfig(cfg))
		table.Header(header)
		if err := errors.Join(table.Append(row), table.Render()); err != nil {
			return err
		}
	}
	return t.write(text.String())
}

// write puts text on standard output. An answer that nobody could read is not a
// success.
func (t *tool) write(text string) error {
	if _, err := io.WriteString(t.out, text); err != nil {
		return &failure{code: exitIO, err: err}
	}
	return nil
}
