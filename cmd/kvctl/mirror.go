package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/mirror"
)

const (
	mirrorTellEvery = 30 * time.Second
	mirrorTxnBytes  = 1 << 20 // what one transaction of the first copy may carry; a server takes 1.5 MiB
)

// mirrorOptions are the flags of make-mirror.
type mirrorOptions struct {
	prefix       string
	rev          int64
	maxTxnOps    uint
	destPrefix   string
	noDestPrefix bool

	cert, key, cacert string
	insecureTransport bool
	user, password    string
}

func (p *program) mirrorCommand() *cobra.Command {
	var o mirrorOptions
	cmd := &cobra.Command{
		Use:   "make-mirror [options] <destination>",
		Short: "Copies keys to another cluster and follows their changes",
		Long: `Copies all keys, or those of a prefix, to another cluster, then follows what happens
to them, until interrupted. Every 30 seconds it prints how many changes it has
carried over.

$ kvctl make-mirror --prefix app/ --dest-prefix copy/app/ http://10.1.0.1:2379

With --rev nothing is copied first: changes are carried over from that revision on.
Keys that the destination has and the source has not stay; leases are not mirrored.
`,
		GroupID: groupUtility,
		Run:     p.does(func(cmd *cobra.Command, args []string) error { return p.makeMirror(cmd, args, &o) }),
	}
	fs := cmd.Flags()
	fs.StringVar(&o.prefix, "prefix", "", "mirror the keys that begin so")
	fs.Int64Var(&o.rev, "rev", 0, "copy nothing and follow the changes from this revision on (0: copy first)")
	fs.UintVar(&o.maxTxnOps, "max-txn-ops", 128, "most changes to make in one transaction at the destination")
	fs.StringVar(&o.destPrefix, "dest-prefix", "", "prefix at the destination (the same as at the source)")
	fs.BoolVar(&o.noDestPrefix, "no-dest-prefix", false, "leave the prefix off at the destination")
	fs.StringVar(&o.cert, "dest-cert", "", "file with our TLS certificate for the destination")
	fs.StringVar(&o.key, "dest-key", "", "file with the key of that certificate")
	fs.StringVar(&o.cacert, "dest-cacert", "", "file with the CA certificates that the destination is verified against")
	fs.BoolVar(&o.insecureTransport, "dest-insecure-transport", true, "connect without TLS where the destination does not ask for it")
	fs.StringVar(&o.user, "dest-user", "", "username[:password] at the destination (asks for a missing password)")
	fs.StringVar(&o.password, "dest-password", "", "password at the destination; --dest-user must then not contain one")
	return cmd
}

// destination is the session with the other cluster.
func (p *program) destination(s *session, endpoint string, o *mirrorOptions) (*session, error) {
	spec := s.spec.Clone()
	spec.Endpoints = []string{endpoint}
	spec.Secure = &clientv3.SecureConfig{Cert: o.cert, Key: o.key, Cacert: o.cacert, InsecureTransport: o.insecureTransport}
	spec.Auth = nil
	if o.user != "" {
		name, password, given := o.user, o.password, o.password != ""
		if !given {
			name, password, given = strings.Cut(o.user, ":")
		}
		if !given {
			var err error
			if password, err = askPassword("Destination Password: ", p.in, p.out); err != nil {
				return nil, fail(exitError, err)
			}
		}
		spec.Auth = &clientv3.AuthConfig{Username: name, Password: password}
	}
	return &session{program: p, spec: spec, log: s.log, last: s.last}, nil
}

func (p *program) makeMirror(cmd *cobra.Command, args []string, o *mirrorOptions) error {
	switch {
	case len(args) != 1:
		return failf(exitBadArgs, "make-mirror takes one destination argument")
	case o.noDestPrefix && o.destPrefix != "":
		return failf(exitBadArgs, "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one")
	case o.maxTxnOps == 0:
		return failf(exitBadArgs, "--max-txn-ops must not be 0: nothing could be mirrored")
	}
	if o.destPrefix == "" && !o.noDestPrefix {
		o.destPrefix = o.prefix
	}
	s, err := p.prepare(cmd)
	if err != nil {
		return err
	}
	there, err := p.destination(s, args[0], o)
	if err != nil {
		return err
	}
	m := &mirroring{mirrorOptions: o, here: s, there: there}
	if m.to, err = there.dial(s.log.Named("etcd-client"), args[0]); err != nil {
		return err
	}
	defer hangUp(m.to)
	if m.from, err = s.dial(s.log.Named("etcd-client"), s.spec.Endpoints...); err != nil {
		return err
	}
	defer hangUp(m.from)
	ctx, cancel := untilSignal()
	defer cancel()
	told := make(chan struct{})
	go func() { defer close(told); m.tell(ctx) }()
	err = m.run(ctx)
	interrupted := ctx.Err() != nil
	cancel()
	<-told
	if interrupted {
		return &failure{code: exitInterruptedMirror}
	}
	return err
}

// exitInterruptedMirror is how a mirror ends that was told to: of SIGINT, as a
// shell sees etcdctl end.
const exitInterruptedMirror = 130

// mirroring is one run of make-mirror.
type mirroring struct {
	*mirrorOptions
	here, there *session
	from, to    *clientv3.Client
	changes     atomic.Int64 // carried over
}

// tell prints now and then how much was done.
func (m *mirroring) tell(ctx context.Context) {
	t := time.NewTicker(mirrorTellEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = m.here.say("%d", m.changes.Load()) // the copy matters more than what is said about it
		case <-ctx.Done():
			return
		}
	}
}

func (m *mirroring) run(ctx context.Context) error {
	sync := mirror.NewSyncer(m.from, m.prefix, max(m.rev-1, 0))
	if m.rev <= 1 {
		if err := m.copy(ctx, sync); err != nil {
			return err
		}
	}
	return m.follow(ctx, sync)
}

// renamed is a key's name at the destination.
func (m *mirroring) renamed(key []byte) string {
	return m.destPrefix + strings.TrimPrefix(string(key), m.prefix)
}

// copy carries over what is there, a transaction at a time.
func (m *mirroring) copy(ctx context.Context, sync mirror.Syncer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the reading if writing fails
	pages, failed := sync.SyncBase(ctx)
	var shown *bar
	defer func() {
		if shown != nil {
			shown.clear()
		}
	}()
	for page := range pages {
		if shown == nil {
			shown = m.here.bar("copying", page.Count, counting("keys"))
		}
		var ops []clientv3.Op
		bytes := 0
		for _, kv := range page.Kvs {
			size := len(kv.GetKey()) + len(kv.GetValue()) + len(m.destPrefix)
			if len(ops) > 0 && (len(ops) >= int(m.maxTxnOps) || bytes+size > mirrorTxnBytes) {
				if err := m.commit(ctx, ops); err != nil {
					return err
				}
				shown.add(int64(len(ops)))
				ops, bytes = nil, 0
			}
			ops, bytes = append(ops, clientv3.OpPut(m.renamed(kv.GetKey()), string(kv.GetValue()))), bytes+size
		}
		if err := m.commit(ctx, ops); err != nil {
			return err
		}
		shown.add(int64(len(ops)))
	}
	if err := <-failed; err != nil {
		return m.here.refused(exitError, err)
	}
	return nil
}

// follow carries over changes as they come. Those of one revision come in one
// transaction here, too, so far as --max-txn-ops lets them.
func (m *mirroring) follow(ctx context.Context, sync mirror.Syncer) error {
	shown := m.here.bar("following", 0, counting("changes"))
	defer shown.clear()
	for resp := range sync.SyncUpdates(ctx) {
		if resp.CompactRevision != 0 {
			return m.here.refused(exitError, rpctypes.ErrCompacted)
		}
		if err := resp.Err(); err != nil {
			return m.here.refused(exitError, err)
		}
		var ops []clientv3.Op
		var rev int64
		for _, e := range resp.Events {
			if len(ops) > 0 && (e.GetKv().GetModRevision() > rev || len(ops) >= int(m.maxTxnOps)) {
				if err := m.commit(ctx, ops); err != nil {
					return err
				}
				ops = nil
			}
			rev = e.GetKv().GetModRevision()
			key := m.renamed(e.GetKv().GetKey())
			if e.GetType() == mvccpb.Event_DELETE {
				ops = append(ops, clientv3.OpDelete(key))
			} else {
				ops = append(ops, clientv3.OpPut(key, string(e.GetKv().GetValue())))
			}
		}
		if err := m.commit(ctx, ops); err != nil {
			return err
		}
		shown.add(int64(len(resp.Events)))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fail(exitError, errors.New("the watch on the source has ended"))
}

func (m *mirroring) commit(ctx context.Context, ops []clientv3.Op) error {
	if len(ops) == 0 {
		return nil
	}
	if _, err := m.to.Txn(ctx).Then(ops...).Commit(); err != nil {
		return m.there.refused(exitError, fmt.Errorf("write to the destination: %w", err))
	}
	m.changes.Add(int64(len(ops)))
	return nil
}
