package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

var (
	errWatchArgs      = errors.New("bad number of arguments")
	errWatchConflict  = errors.New("bad number of arguments (found conflicting environment key)")
	errWatchNoCommand = errors.New("bad number of arguments (found separator --, but no commands)")
	errWatchEnded     = errors.New("watch is canceled by the server")
)

// watchOptions are the flags of "watch", on the command line or on a line of
// its interactive mode.
type watchOptions struct {
	rev            int64
	prefix         bool
	prevKV         bool
	progressNotify bool
	interactive    bool
}

func (o *watchOptions) bind(fs *pflag.FlagSet) {
	fs.BoolVarP(&o.interactive, "interactive", "i", false, "read watch and progress requests from standard input")
	fs.BoolVar(&o.prefix, "prefix", false, "watch the keys that begin with <key>")
	fs.Int64Var(&o.rev, "rev", 0, "first revision to watch (0: what comes from now on)")
	fs.BoolVar(&o.prevKV, "prev-kv", false, "also return each pair as it was before the event")
	fs.BoolVar(&o.progressNotify, "progress-notify", false, "let the server tell from time to time how far the watch is")
}

// watchRequest is what one watch is to follow and what to run at each event.
type watchRequest struct {
	key     string
	opts    []clientv3.OpOption
	command []string // empty: only print
}

// watchSpan is the key and range end of the environment, ours before
// etcdctl's.
func (p *program) watchSpan() (span []string, err error) {
	for _, prefix := range envPrefixes {
		var key, end string
		for _, e := range p.environ {
			if v, ok := strings.CutPrefix(e, prefix+"WATCH_KEY="); ok {
				key = v
			}
			if v, ok := strings.CutPrefix(e, prefix+"WATCH_RANGE_END="); ok {
				end = v
			}
		}
		switch {
		case key == "" && end != "":
			return nil, failf(exitBadArgs, "%sWATCH_KEY is empty but got %sWATCH_RANGE_END=%q", prefix, prefix, end)
		case key != "" && end != "":
			return []string{key, end}, nil
		case key != "":
			return []string{key}, nil
		}
	}
	return nil, nil
}

// request makes a watch of parsed arguments. dash is where "--" stood among
// them (-1: nowhere); what follows it is a command.
func (o *watchOptions) request(args []string, dash int, fromEnv []string) (watchRequest, error) {
	var r watchRequest
	span := args
	if dash >= 0 {
		span, r.command = args[:dash], args[dash:]
		if len(r.command) == 0 {
			return r, errWatchNoCommand
		}
	}
	if len(fromEnv) > 0 {
		if len(span) > 0 {
			return r, errWatchConflict
		}
		span = fromEnv
	}
	if len(span) == 0 {
		return r, errWatchArgs
	}
	r.key = span[0]
	r.opts = append(r.opts, clientv3.WithRev(o.rev))
	if len(span) == 2 {
		if o.prefix {
			return r, errors.New("`range_end` and `--prefix` are mutually exclusive")
		}
		r.opts = append(r.opts, clientv3.WithRange(span[1]))
	}
	if o.prefix {
		r.opts = append(r.opts, clientv3.WithPrefix())
	}
	if o.prevKV {
		r.opts = append(r.opts, clientv3.WithPrevKV())
	}
	if o.progressNotify {
		r.opts = append(r.opts, clientv3.WithProgressNotify())
	}
	return r, nil
}

func (p *program) watchCommand() *cobra.Command {
	var o watchOptions
	cmd := &cobra.Command{
		Use:   "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
		Short: "Watches events on a key, a prefix or a range",
		Long: `Watches events on a key, a prefix or a range, and prints them as they come.

A command after '--' runs once per event, with the event in its environment, as
KVD_WATCH_REVISION, KVD_WATCH_EVENT_TYPE, KVD_WATCH_KEY and KVD_WATCH_VALUE, and
under the same names with ETCD_ for KVD_. Type, key and value are quoted.

The key may also come from KVCTL_WATCH_KEY (and KVCTL_WATCH_RANGE_END).

With -i, standard input has one request a line:

watch [options] <key or prefix> [range_end] [-- command]
progress`,
		GroupID: groupKV,
		Run:     p.does(func(cmd *cobra.Command, args []string) error { return p.watch(cmd, args, &o) }),
	}
	o.bind(cmd.Flags())
	return cmd
}

func (p *program) watch(cmd *cobra.Command, args []string, o *watchOptions) error {
	fromEnv, err := p.watchSpan()
	if err != nil {
		return err
	}
	if o.interactive {
		return p.watchInteractive(cmd, fromEnv)
	}
	r, err := o.request(args, cmd.ArgsLenAtDash(), fromEnv)
	if err != nil {
		return fail(exitBadArgs, err)
	}
	s, c, err := p.open(cmd, watchAnswer{})
	if err != nil {
		return err
	}
	ctx := clientv3.WithRequireLeader(context.Background())
	if err := s.follow(ctx, c.Watch(ctx, r.key, r.opts...), r.command); err != nil {
		hangUp(c)
		return err
	}
	if err := c.Close(); err != nil {
		return fail(exitBadConnection, err)
	}
	return fail(exitInterrupted, errWatchEnded)
}

// watchInteractive reads requests until input ends or a watch breaks. Its
// watches run side by side: each line of input and each piece of output is
// handled in this goroutine, in the order they come.
func (p *program) watchInteractive(cmd *cobra.Command, fromEnv []string) error {
	s, c, err := p.open(cmd, watchAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(context.Background()))
	defer cancel()

	// NB: a read from standard input cannot be interrupted, so this goroutine
	// may outlive us; the process ends then.
	lines := make(chan string)
	ended := make(chan error, 1)
	go func() {
		in := bufio.NewReader(p.in)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				ended <- failf(exitInvalidInput, "error reading watch request line: %w", err)
				return
			}
			select {
			case lines <- strings.TrimSuffix(line, "\n"):
			case <-ctx.Done():
				return
			}
		}
	}()

	events := make(chan watchEvent) // unbuffered: a slow terminal slows the watches
	for {
		select {
		case line := <-lines:
			if err := s.watchLine(ctx, c, line, fromEnv, events); err != nil {
				return err
			}
		case e := <-events:
			if err := s.show(ctx, e.resp, e.command); err != nil {
				return err
			}
		case err := <-ended:
			return err
		}
	}
}

type watchEvent struct {
	resp    clientv3.WatchResponse
	command []string
}

// watchLine does one line of interactive input. A line that makes no sense is
// told and forgotten; the error it returns ends the program.
func (s *session) watchLine(ctx context.Context, c *clientv3.Client, line string, fromEnv []string, events chan<- watchEvent) error {
	words, err := splitWords(line)
	switch {
	case err != nil:
		return fail(exitInvalidInput, err)
	case len(words) == 0:
		fmt.Fprintf(s.errs, "Invalid command: %s (watch and progress supported)\n", line)
		return nil
	case words[0] == "progress":
		if err := c.RequestProgress(ctx); err != nil {
			return s.refused(exitError, err)
		}
		return nil
	case words[0] != "watch":
		fmt.Fprintf(s.errs, "Invalid command %s (only support watch)\n", line)
		return nil
	case len(words) < 2 && len(fromEnv) == 0:
		fmt.Fprintf(s.errs, "Invalid command %s (command type or key is not provided)\n", line)
		return nil
	}
	var o watchOptions
	fs := pflag.NewFlagSet("watch", pflag.ContinueOnError)
	fs.SetOutput(s.errs)
	o.bind(fs)
	if err := fs.Parse(words[1:]); err != nil {
		return fail(exitBadArgs, err)
	}
	r, err := o.request(fs.Args(), fs.ArgsLenAtDash(), fromEnv)
	switch {
	case errors.Is(err, errWatchArgs), errors.Is(err, errWatchConflict), errors.Is(err, errWatchNoCommand):
		return fail(exitBadArgs, err)
	case err != nil:
		fmt.Fprintf(s.errs, "Invalid command %s (%v)\n", line, err)
		return nil
	}
	watch := c.Watch(ctx, r.key, r.opts...)
	go func() { // ends with ctx, which closes the channel
		for resp := range watch {
			select {
			case events <- watchEvent{resp, r.command}:
			case <-ctx.Done():
			}
		}
	}()
	return nil
}

// follow shows all that a watch brings, until it ends.
func (s *session) follow(ctx context.Context, watch clientv3.WatchChan, command []string) error {
	for resp := range watch {
		if err := s.show(ctx, resp, command); err != nil {
			return err
		}
	}
	return nil
}

// show prints one response and runs the command for each of its events.
func (s *session) show(ctx context.Context, resp clientv3.WatchResponse, command []string) error {
	if resp.Canceled {
		fmt.Fprintf(s.errs, "watch was canceled (%v)\n", resp.Err())
	}
	if resp.IsProgressNotify() {
		if err := s.say("progress notify: %d", resp.Header.GetRevision()); err != nil {
			return err
		}
	}
	if err := s.print(watchAnswer{&resp}); err != nil {
		return err
	}
	if len(command) == 0 {
		return nil
	}
	for _, e := range resp.Events {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Env = append([]string{}, s.environ...)
		for _, prefix := range []string{"ETCD_WATCH_", "KVD_WATCH_"} {
			cmd.Env = append(cmd.Env,
				fmt.Sprintf("%sREVISION=%d", prefix, resp.Header.GetRevision()),
				fmt.Sprintf("%sEVENT_TYPE=%q", prefix, e.GetType()),
				fmt.Sprintf("%sKEY=%q", prefix, e.GetKv().GetKey()),
				fmt.Sprintf("%sVALUE=%q", prefix, e.GetKv().GetValue()),
			)
		}
		cmd.Stdout, cmd.Stderr = s.out, s.errs
		if err := cmd.Run(); err != nil {
			fmt.Fprintf(s.errs, "command %q error (%v)\n", command, err)
			return &failure{code: exitError}
		}
	}
	return nil
}

type watchAnswer struct{ *clientv3.WatchResponse }

func (a watchAnswer) simple(g *page) {
	for _, e := range a.Events {
		g.line(e.GetType())
		if e.GetPrevKv() != nil {
			g.pair(e.GetPrevKv())
		}
		g.pair(e.GetKv())
	}
}

func (a watchAnswer) fields(g *page) {
	g.header(a.Header)
	for _, e := range a.Events {
		g.line(`"Type" :`, e.GetType())
		if e.GetPrevKv() != nil {
			g.pairFields("Prev", e.GetPrevKv())
		}
		g.pairFields("", e.GetKv())
	}
}

func (a watchAnswer) json(bool) any { return a.WatchResponse }

func (a watchAnswer) message() proto.Message {
	return &pb.WatchResponse{
		Header:          a.Header,
		Events:          a.Events,
		CompactRevision: a.CompactRevision,
		Canceled:        a.Canceled,
		Created:         a.Created,
	}
}
