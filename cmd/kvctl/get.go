package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

var (
	errPrefixAndFromKey = errors.New("`--prefix` and `--from-key` cannot be set at the same time, choose one")
	errPrefixAndRange   = errors.New("too many arguments, only accept one argument when `--prefix` or `--from-key` is set")
)

// getOptions are the flags of "get", on the command line or within a
// transaction.
type getOptions struct {
	consistency string
	order       string
	sortBy      string
	limit       int64
	rev         int64
	prefix      bool
	fromKey     bool
	keysOnly    bool
	countOnly   bool
	valueOnly   bool
	stream      bool

	minCreateRev, maxCreateRev int64
	minModRev, maxModRev       int64
}

func (o *getOptions) bind(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&o.consistency, "consistency", "l", "Linearizable(l) or Serializable(s)")
	fs.StringVar(&o.order, "order", "", "order of the results: ASCEND or DESCEND")
	fs.StringVar(&o.sortBy, "sort-by", "", "what to sort by: CREATE, KEY, MODIFY, VALUE, or VERSION")
	fs.Int64Var(&o.limit, "limit", 0, "most results to return (0: all)")
	fs.BoolVar(&o.prefix, "prefix", false, "get the keys that begin with <key>")
	fs.BoolVar(&o.fromKey, "from-key", false, "get <key> and all keys after it, in byte order")
	fs.Int64Var(&o.rev, "rev", 0, "the store's revision to read at (0: the present)")
	fs.BoolVar(&o.keysOnly, "keys-only", false, "get keys without their values")
	fs.BoolVar(&o.countOnly, "count-only", false, "get only the number of keys (with --write-out=fields)")
	fs.BoolVar(&o.valueOnly, "print-value-only", false, "print values without their keys (with --write-out=simple)")
	fs.Int64Var(&o.minCreateRev, "min-create-rev", 0, "leave out keys created before this revision")
	fs.Int64Var(&o.maxCreateRev, "max-create-rev", 0, "leave out keys created after this revision")
	fs.Int64Var(&o.minModRev, "min-mod-rev", 0, "leave out keys last changed before this revision")
	fs.Int64Var(&o.maxModRev, "max-mod-rev", 0, "leave out keys last changed after this revision")
	fs.BoolVar(&o.stream, "stream", false, "let the answer come in pieces, by the RangeStream RPC")

	// These fail only for a flag that was not declared above.
	_ = cmd.RegisterFlagCompletionFunc("consistency", oneOf("l", "s"))
	_ = cmd.RegisterFlagCompletionFunc("order", oneOf("ASCEND", "DESCEND"))
	_ = cmd.RegisterFlagCompletionFunc("sort-by", oneOf("CREATE", "KEY", "MODIFY", "VALUE", "VERSION"))
}

// request checks flags and arguments in etcdctl's order, so that the same
// mistake is named.
func (o *getOptions) request(args []string) (key string, opts []clientv3.OpOption, err error) {
	switch {
	case len(args) == 0:
		return "", nil, failf(exitBadArgs, "get command needs one argument as key and an optional argument as range_end")
	case o.prefix && o.fromKey:
		return "", nil, fail(exitBadArgs, errPrefixAndFromKey)
	case o.keysOnly && o.countOnly:
		return "", nil, failf(exitBadArgs, "`--keys-only` and `--count-only` cannot be set at the same time, choose one")
	}
	serializable, err := serializable(o.consistency)
	if err != nil {
		return "", nil, err
	}
	if serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	key = args[0]
	if len(args) > 1 {
		if o.prefix || o.fromKey {
			return "", nil, fail(exitBadArgs, errPrefixAndRange)
		}
		opts = append(opts, clientv3.WithRange(args[1]))
	}
	opts = append(opts, clientv3.WithLimit(o.limit))
	if o.rev > 0 {
		opts = append(opts, clientv3.WithRev(o.rev))
	}
	sorted, err := o.sort()
	if err != nil {
		return "", nil, err
	}
	opts = append(opts, sorted)
	key, span := wholeSpan(key, o.prefix, o.fromKey)
	opts = append(opts, span...)
	if o.keysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if o.countOnly {
		opts = append(opts, clientv3.WithCountOnly())
	}
	bounds, err := o.bounds()
	return key, append(opts, bounds...), err
}

func (o *getOptions) sort() (clientv3.OpOption, error) {
	orders := map[string]clientv3.SortOrder{
		"":        clientv3.SortNone,
		"ASCEND":  clientv3.SortAscend,
		"DESCEND": clientv3.SortDescend,
	}
	order, ok := orders[strings.ToUpper(o.order)]
	if !ok {
		return nil, failf(exitBadFeature, "bad sort order %v", o.order)
	}
	targets := map[string]clientv3.SortTarget{
		"":        clientv3.SortByKey,
		"CREATE":  clientv3.SortByCreateRevision,
		"KEY":     clientv3.SortByKey,
		"MODIFY":  clientv3.SortByModRevision,
		"VALUE":   clientv3.SortByValue,
		"VERSION": clientv3.SortByVersion,
	}
	target, ok := targets[strings.ToUpper(o.sortBy)]
	if !ok {
		return nil, failf(exitBadFeature, "bad sort target %v", o.sortBy)
	}
	return clientv3.WithSort(target, order), nil
}

// bounds are the filters by revision. The names in the messages are etcdctl's
// own variables; scripts may look for them.
func (o *getOptions) bounds() (opts []clientv3.OpOption, err error) {
	if o.minCreateRev > 0 {
		opts = append(opts, clientv3.WithMinCreateRev(o.minCreateRev))
	}
	if o.maxCreateRev > 0 {
		if o.minCreateRev > o.maxCreateRev {
			return nil, failf(exitBadFeature, "getMinCreateRev(=%v) > getMaxCreateRev(=%v)", o.minCreateRev, o.maxCreateRev)
		}
		opts = append(opts, clientv3.WithMaxCreateRev(o.maxCreateRev))
	}
	if o.minModRev > 0 {
		opts = append(opts, clientv3.WithMinModRev(o.minModRev))
	}
	if o.maxModRev > 0 {
		if o.minModRev > o.maxModRev {
			return nil, failf(exitBadFeature, "getMinModRev(=%v) > getMaxModRev(=%v)", o.minModRev, o.maxModRev)
		}
		opts = append(opts, clientv3.WithMaxModRev(o.maxModRev))
	}
	return opts, nil
}

func serializable(consistency string) (bool, error) {
	switch consistency {
	case "s":
		return true, nil
	case "l":
		return false, nil
	}
	return false, failf(exitBadFeature, "unknown consistency flag %q", consistency)
}

// wholeSpan is what --prefix and --from-key make of a key. No key may be
// empty, so the empty one stands for the first there can be.
func wholeSpan(key string, prefix, fromKey bool) (string, []clientv3.OpOption) {
	switch {
	case !prefix && !fromKey:
		return key, nil
	case key == "":
		return "\x00", []clientv3.OpOption{clientv3.WithFromKey()}
	case prefix:
		return key, []clientv3.OpOption{clientv3.WithPrefix()}
	}
	return key, []clientv3.OpOption{clientv3.WithFromKey()}
}

func (p *program) getCommand() *cobra.Command {
	var o getOptions
	cmd := &cobra.Command{
		Use:     "get [options] <key> [range_end]",
		Short:   "Gets a key or a range of keys",
		GroupID: groupKV,
		Run:     p.does(func(cmd *cobra.Command, args []string) error { return p.get(cmd, args, &o) }),
	}
	o.bind(cmd)
	return cmd
}

func (p *program) get(cmd *cobra.Command, args []string, o *getOptions) error {
	key, opts, err := o.request(args)
	if err != nil {
		return err
	}
	s, c, err := p.open(cmd, getAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)
	if o.countOnly && p.globals.format != "fields" {
		return failf(exitBadArgs, "--count-only is only for `--write-out=fields`")
	}
	if o.valueOnly && p.globals.format != "simple" {
		return failf(exitBadArgs, "print-value-only is only for `--write-out=simple`")
	}
	ctx, cancel := s.context()
	defer cancel()
	var resp *clientv3.GetResponse
	if o.stream {
		var pieces clientv3.GetStreamChan
		if pieces, err = c.GetStream(ctx, key, opts...); err == nil {
			resp, err = clientv3.GetStreamToGetResponse(pieces)
		}
	} else {
		resp, err = c.Get(ctx, key, opts...)
	}
	if err != nil {
		return s.refused(exitError, err)
	}
	return p.print(getAnswer{(*pb.RangeResponse)(resp), o.valueOnly})
}

type getAnswer struct {
	*pb.RangeResponse
	valueOnly bool
}

func (a getAnswer) simple(g *page) {
	for _, kv := range a.GetKvs() {
		if !a.valueOnly {
			g.line(g.text(kv.GetKey()))
		}
		g.line(g.text(kv.GetValue()))
	}
}

func (a getAnswer) fields(g *page) {
	g.header(a.GetHeader())
	for _, kv := range a.GetKvs() {
		g.pairFields("", kv)
	}
	g.line(`"More" :`, a.GetMore())
	g.line(`"Count" :`, a.GetCount())
}

func (a getAnswer) json(bool) any          { return a.RangeResponse }
func (a getAnswer) message() proto.Message { return a.RangeResponse }
