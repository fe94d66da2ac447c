package main

import (
	"errors"
	"io"
	"strconv"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

var errPutArgs = errors.New("put command needs 1 argument and input from stdin or 2 arguments")

// putOptions are the flags of "put", on the command line or within a
// transaction.
type putOptions struct {
	lease       string
	prevKV      bool
	ignoreValue bool
	ignoreLease bool
}

func (o *putOptions) bind(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&o.lease, "lease", "0", "lease (hexadecimal) that the key goes with")
	fs.BoolVar(&o.prevKV, "prev-kv", false, "also return the pair as it was before")
	fs.BoolVar(&o.ignoreValue, "ignore-value", false, "keep the key's present value")
	fs.BoolVar(&o.ignoreLease, "ignore-lease", false, "keep the key's present lease")
}

// request reads the value from in when it is not among args.
func (o *putOptions) request(args []string, in io.Reader) (key, value string, opts []clientv3.OpOption, err error) {
	switch {
	case len(args) == 0:
		return "", "", nil, fail(exitBadArgs, errPutArgs)
	case o.ignoreValue && len(args) > 1:
		return "", "", nil, failf(exitBadArgs, "put command needs only 1 argument when 'ignore-value' is set")
	case o.ignoreValue:
		opts = append(opts, clientv3.WithIgnoreValue())
	case len(args) > 1:
		value = args[1]
	default:
		text, err := io.ReadAll(in)
		if err != nil || len(text) == 0 {
			return "", "", nil, fail(exitBadArgs, errPutArgs)
		}
		value = string(text)
	}
	lease, err := strconv.ParseInt(o.lease, 16, 64)
	if err != nil {
		return "", "", nil, failf(exitBadArgs, "bad lease ID (%w), expecting ID in Hex", err)
	}
	if lease != 0 {
		opts = append(opts, clientv3.WithLease(clientv3.LeaseID(lease)))
	}
	if o.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	if o.ignoreLease {
		opts = append(opts, clientv3.WithIgnoreLease())
	}
	return args[0], value, opts, nil
}

func (p *program) putCommand() *cobra.Command {
	var o putOptions
	cmd := &cobra.Command{
		Use:   "put [options] <key> <value> (<value> can also be given from stdin)",
		Short: "Puts a key and its value into the store",
		Long: `Puts a key and its value into the store.

Without <value> on the command line, and without --ignore-value, the value is
all of standard input:

$ kvctl put config < config.yaml

A <value> that begins with '-' would be read as a flag; write '--' before it:

$ kvctl put temperature -- -5
$ kvctl put -- temperature -5
`,
		GroupID: groupKV,
		Run:     p.does(func(cmd *cobra.Command, args []string) error { return p.put(cmd, args, &o) }),
	}
	o.bind(cmd)
	return cmd
}

func (p *program) put(cmd *cobra.Command, args []string, o *putOptions) error {
	key, value, opts, err := o.request(args, p.in)
	if err != nil {
		return err
	}
	s, c, err := p.open(cmd, putAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.Put(ctx, key, value, opts...)
	if err != nil {
		return s.refused(exitError, err)
	}
	return p.print(putAnswer{(*pb.PutResponse)(resp)})
}

type putAnswer struct{ *pb.PutResponse }

func (a putAnswer) simple(g *page) {
	g.line("OK")
	if a.GetPrevKv() != nil {
		g.pair(a.GetPrevKv())
	}
}

func (a putAnswer) fields(g *page) {
	g.header(a.GetHeader())
	if a.GetPrevKv() != nil {
		g.pairFields("Prev", a.GetPrevKv())
	}
}

func (a putAnswer) json(bool) any          { return a.PutResponse }
func (a putAnswer) message() proto.Message { return a.PutResponse }
