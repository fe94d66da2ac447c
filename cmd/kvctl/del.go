package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// secondThoughts is how long "del a z" waits, without --range, for a person
// who meant two keys and not all between them.
const secondThoughts = 2 * time.Second

// delOptions are the flags of "del", on the command line or within a
// transaction.
type delOptions struct {
	prefix  bool
	prevKV  bool
	fromKey bool
	ranged  bool
}

func (o *delOptions) bind(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.BoolVar(&o.prefix, "prefix", false, "delete the keys that begin with <key>")
	fs.BoolVar(&o.prevKV, "prev-kv", false, "also return the deleted pairs")
	fs.BoolVar(&o.fromKey, "from-key", false, "delete <key> and all keys after it, in byte order")
	fs.BoolVar(&o.ranged, "range", false, "delete the range without a delay")
}

// request also waits, where a range may be a mistake.
func (o *delOptions) request(args []string, errs io.Writer) (key string, opts []clientv3.OpOption, err error) {
	switch {
	case len(args) == 0 || len(args) > 2:
		return "", nil, failf(exitBadArgs, "del command needs one argument as key and an optional argument as range_end")
	case o.prefix && o.fromKey:
		return "", nil, fail(exitBadArgs, errPrefixAndFromKey)
	case len(args) == 2 && (o.prefix || o.fromKey):
		return "", nil, fail(exitBadArgs, errPrefixAndRange)
	case len(args) == 2:
		opts = append(opts, clientv3.WithRange(args[1]))
		if !o.ranged {
			fmt.Fprintf(errs, "Warning: Keys between %q and %q will be deleted. Please interrupt the command within next 2 seconds to cancel. "+
				"You can provide `--range` flag to avoid the delay.\n", args[0], args[1])
			time.Sleep(secondThoughts)
		}
	}
	key, span := wholeSpan(args[0], o.prefix, o.fromKey)
	opts = append(opts, span...)
	if o.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	return key, opts, nil
}

func (p *program) delCommand() *cobra.Command {
	var o delOptions
	cmd := &cobra.Command{
		Use:     "del [options] <key> [range_end]",
		Short:   "Deletes a key or the range of keys [key, range_end)",
		GroupID: groupKV,
		Run:     p.does(func(cmd *cobra.Command, args []string) error { return p.del(cmd, args, &o) }),
	}
	o.bind(cmd)
	return cmd
}

func (p *program) del(cmd *cobra.Command, args []string, o *delOptions) error {
	key, opts, err := o.request(args, p.errs)
	if err != nil {
		return err
	}
	s, c, err := p.open(cmd, delAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.Delete(ctx, key, opts...)
	if err != nil {
		return s.refused(exitError, err)
	}
	return p.print(delAnswer{(*pb.DeleteRangeResponse)(resp)})
}

type delAnswer struct{ *pb.DeleteRangeResponse }

func (a delAnswer) simple(g *page) {
	g.line(a.GetDeleted())
	for _, kv := range a.GetPrevKvs() {
		g.pair(kv)
	}
}

func (a delAnswer) fields(g *page) {
	g.header(a.GetHeader())
	g.line(`"Deleted" :`, a.GetDeleted())
	for _, kv := range a.GetPrevKvs() {
		g.pairFields("Prev", kv)
	}
}

func (a delAnswer) json(bool) any          { return a.DeleteRangeResponse }
func (a delAnswer) message() proto.Message { return a.DeleteRangeResponse }
