package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// defaultTTL is what a lock or candidacy lives on, in seconds, where nothing
// sensible was asked for.
const defaultTTL = 60

// untilSignal ends when a person or a supervisor wants the command to.
func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
}

// hold grants the lease that a lock or candidacy lives on, and renews it until
// the session is closed. A cluster that does not answer is told at once; the
// library would wait for ever.
func (s *session) hold(c *clientv3.Client, ttl int) (*concurrency.Session, error) {
	if ttl <= 0 {
		ttl = defaultTTL
	}
	ctx, cancel := s.context()
	defer cancel()
	lease, err := c.Grant(ctx, int64(ttl))
	if err != nil {
		return nil, err
	}
	return concurrency.NewSession(c, concurrency.WithTTL(ttl), concurrency.WithLease(lease.ID))
}

func (p *program) lockCommand() *cobra.Command {
	var ttl int
	cmd := &cobra.Command{
		Use:   "lock <lockname> [exec-command arg1 arg2 ...]",
		Short: "Holds a named lock",
		Long: `Waits for a named lock and holds it until interrupted, or, with a command, for as
long as that runs. The key of the lock is printed once it is held; a command
finds it in KVD_LOCK_KEY, its revision in KVD_LOCK_REV (and both under ETCD_ for
KVD_). The exit code is the command's.

$ kvctl lock nightly -- ./backup.sh --all

Should kvctl be killed or lose the cluster, the lock is free after --ttl seconds.`,
		GroupID: groupLocks,
		Run:     p.does(func(cmd *cobra.Command, args []string) error { return p.lock(cmd, args, ttl) }),
	}
	cmd.Flags().IntVar(&ttl, "ttl", 10, "seconds after which a holder that is not heard of loses the lock")
	return cmd
}

func (p *program) lock(cmd *cobra.Command, args []string, ttl int) error {
	if len(args) == 0 {
		return failf(exitBadArgs, "lock takes a lock name argument and an optional command to execute")
	}
	var answers []answer
	if len(args) == 1 { // where a command runs, nothing is printed
		answers = append(answers, getAnswer{})
	}
	s, c, err := p.open(cmd, answers...)
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := untilSignal()
	defer cancel()
	held, err := s.hold(c, ttl)
	if err != nil {
		return s.refused(exitError, err)
	}
	defer held.Close() //nolint:errcheck // the lease ends by itself, too
	m := concurrency.NewMutex(held, args[0])
	if err := m.Lock(ctx); err != nil {
		return s.refused(exitError, err)
	}
	if len(args) > 1 {
		err = s.underLock(held, m, args[1:])
		return errors.Join(err, s.unlock(m))
	}
	if err := s.showHeld(ctx, c, m.Key(), "lock lost on init"); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return s.unlock(m)
	case <-held.Done():
		return failf(exitError, "session expired")
	}
}

// unlock lets others have the lock. It takes no longer than any request.
func (s *session) unlock(m *concurrency.Mutex) error {
	ctx, cancel := s.context()
	defer cancel()
	if err := m.Unlock(ctx); err != nil {
		return s.refused(exitError, err)
	}
	return nil
}

// showHeld prints the pair whose key is held.
func (s *session) showHeld(ctx context.Context, c *clientv3.Client, key, lost string) error {
	resp, err := c.Get(ctx, key)
	if err != nil {
		return s.refused(exitError, err)
	}
	if len(resp.Kvs) == 0 {
		return fail(exitError, errors.New(lost))
	}
	return s.print(getAnswer{RangeResponse: (*pb.RangeResponse)(resp)})
}

// underLock runs a command while the lock is held. Ctrl-C reaches the command
// by itself; SIGTERM, which was for us alone, is passed on.
func (s *session) underLock(held *concurrency.Session, m *concurrency.Mutex, command []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	for _, prefix := range []string{"ETCD_LOCK_", "KVD_LOCK_"} {
		cmd.Env = append(cmd.Env, prefix+"KEY="+m.Key(), fmt.Sprintf("%sREV=%d", prefix, m.Header().GetRevision()))
	}
	cmd.Env = append(cmd.Env, s.environ...)
	cmd.Stdout, cmd.Stderr = s.out, s.errs
	if err := cmd.Start(); err != nil {
		return fail(exitError, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	defer signal.Stop(told)
	lost := held.Done()
	for {
		select {
		case err := <-ended:
			return commandFailure(err)
		case <-told:
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		case <-lost:
			lost = nil
			fmt.Fprintln(s.errs, "Warning: the lock is lost while the command runs: its lease has ended, and somebody else may hold it")
		}
	}
}

// commandFailure is the end of a command as ours: with its exit code.
func commandFailure(err error) error {
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fail(exit.ExitCode()&0xff, err) // 255 if a signal ended it
	}
	return fail(exitError, err)
}

func (p *program) electCommand() *cobra.Command {
	var listen bool
	cmd := &cobra.Command{
		Use:   "elect <election-name> [proposal]",
		Short: "Stands in an election, or watches one",
		Long: `Stands in an election with a proposal (a name or an address, say), prints its key
once it has won, and holds the office until interrupted. With -l it prints each
winner instead.

$ kvctl elect primary 10.0.0.1:8080
$ kvctl elect -l primary`,
		GroupID: groupLocks,
		Run:     p.does(func(cmd *cobra.Command, args []string) error { return p.elect(cmd, args, listen) }),
	}
	cmd.Flags().BoolVarP(&listen, "listen", "l", false, "do not stand, print who wins")
	return cmd
}

func (p *program) elect(cmd *cobra.Command, args []string, listen bool) error {
	switch {
	case len(args) != 1 && len(args) != 2:
		return failf(exitBadArgs, "elect takes one election name argument and an optional proposal argument")
	case len(args) == 1 && !listen:
		return failf(exitBadArgs, "no proposal argument but -l not set")
	case len(args) == 2 && listen:
		return failf(exitBadArgs, "proposal given but -l is set")
	}
	s, c, err := p.open(cmd, getAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := untilSignal()
	defer cancel()
	held, err := s.hold(c, defaultTTL)
	if err != nil {
		return s.refused(exitError, err)
	}
	defer held.Close() //nolint:errcheck // the lease ends by itself, too
	e := concurrency.NewElection(held, args[0])
	if listen {
		return s.observe(ctx, e)
	}
	if err := e.Campaign(ctx, args[1]); err != nil {
		return s.refused(exitError, err)
	}
	if err := s.showHeld(ctx, c, e.Key(), "elect: office lost on init"); err != nil {
		return err
	}
	select {
	case <-held.Done():
		return failf(exitError, "elect: session expired")
	case <-ctx.Done():
	}
	resign, cancel := s.context()
	defer cancel()
	if err := e.Resign(resign); err != nil {
		return s.refused(exitError, err)
	}
	return nil
}

// observe prints whoever wins until we are told to end.
func (s *session) observe(ctx context.Context, e *concurrency.Election) error {
	for resp := range e.Observe(ctx) {
		if err := s.print(getAnswer{RangeResponse: (*pb.RangeResponse)(resp)}); err != nil {
			return err
		}
	}
	if ctx.Err() == nil {
		return failf(exitError, "elect: observer lost")
	}
	return nil
}
