package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// Prefixes that are counted at a time, whatever the cluster holds. When
	// there are more, the smallest makes room.
	topCounters = 4096

	topPageKeys  = 500      // keys of a page of the scan, at most
	topPageBytes = 32 << 20 // of a page; a larger one is asked for again in parts
)

// topOptions are the flags of "top".
type topOptions struct {
	prefix    string
	separator string
	depth     int
	count     int
	lasts     time.Duration
}

func (p *program) topCommand() *cobra.Command {
	var o topOptions
	cmd := &cobra.Command{
		Use:   "top [options]",
		Short: "Shows the busiest prefixes and the largest keys",
		Long: `Shows which prefixes are written to most, by watching for --time, and which prefixes
and keys are largest, by reading all keys once, page by page. A prefix is what a
key begins with up to its second (--depth) separator: /registry/pods/ in
/registry/pods/default/web-0.

It takes little memory however large the cluster is: with more than 4,096 prefixes
the small ones are guessed. Reading all keys is work for the cluster. Reads
leave no trace that could be watched: busy means written to.`,
		Example: `  kvctl top
  kvctl top --prefix /registry/ --depth 3 --time 1m`,
		GroupID: groupCluster,
		Run: p.does(func(cmd *cobra.Command, args []string) error {
			if err := noArguments("top", args); err != nil {
				return err
			}
			if o.depth < 1 || o.count < 1 || o.separator == "" {
				return failf(exitBadArgs, "--depth and --count must be at least 1, and --separator not empty")
			}
			return p.top(cmd, &o)
		}),
	}
	fs := cmd.Flags()
	fs.StringVar(&o.prefix, "prefix", "", "look at the keys that begin so")
	fs.StringVar(&o.separator, "separator", "/", "what parts of keys are set off by")
	fs.IntVar(&o.depth, "depth", 2, "how many parts a prefix has, beyond --prefix")
	fs.IntVar(&o.count, "count", 10, "how many lines of each kind to show")
	fs.DurationVar(&o.lasts, "time", 5*time.Second, "how long to watch (0: do not)")
	return cmd
}

func (p *program) top(cmd *cobra.Command, o *topOptions) error {
	s, err := p.prepare(cmd, topAnswer{})
	if err != nil {
		return err
	}
	if s.spec.MaxCallRecvMsgSize == 0 {
		s.spec.MaxCallRecvMsgSize = topPageBytes
	}
	c, err := s.dial(s.log.Named("etcd-client"), s.spec.Endpoints...)
	if err != nil {
		return err
	}
	defer hangUp(c)
	ctx, cancel := untilSignal()
	defer cancel()
	a := topAnswer{topOptions: o}
	if o.lasts > 0 {
		if err := s.sample(ctx, c, o, &a); err != nil {
			return s.refused(exitError, err)
		}
	}
	if err := s.scan(ctx, c, o, &a); err != nil {
		return s.refused(exitError, err)
	}
	return p.print(a)
}

// part is the prefix under which key is counted.
func (o *topOptions) part(key string) string {
	at := len(o.prefix)
	if strings.HasPrefix(key[at:], o.separator) {
		at += len(o.separator) // a separator in front sets nothing off
	}
	for range o.depth {
		next := strings.Index(key[at:], o.separator)
		if next < 0 {
			return key[:at] // what is not a part but a name
		}
		at += next + len(o.separator)
	}
	return key[:at]
}

// span is all keys that are looked at.
func (o *topOptions) span() (from string, opts []clientv3.OpOption) {
	return wholeSpan(o.prefix, true, false)
}

// sample watches what is written, for a while.
func (s *session) sample(ctx context.Context, c *clientv3.Client, o *topOptions, a *topAnswer) error {
	writes := newCounters(topCounters, byCount)
	shown := s.bar("watching", int64(o.lasts), inTime())
	defer shown.clear()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, opts := o.span()
	watch := c.Watch(ctx, from, append(opts, clientv3.WithCreatedNotify(), clientv3.WithFragment())...)
	var over <-chan time.Time // begins when the watch does
	given := time.After(s.globals.commandTimeout)
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	var begun time.Time
	for {
		select {
		case resp, ok := <-watch:
			if err := resp.Err(); err != nil {
				return err
			}
			if !ok {
				return cmp.Or(ctx.Err(), errWatchEnded)
			}
			if resp.Created {
				begun, given, over = time.Now(), nil, time.After(o.lasts)
			}
			for _, e := range resp.Events {
				writes.add(o.part(string(e.GetKv().GetKey())), 1, int64(len(e.GetKv().GetKey())+len(e.GetKv().GetValue())))
			}
		case <-tick.C:
			if !begun.IsZero() {
				shown.done.Store(int64(time.Since(begun)))
			}
		case <-given:
			return context.DeadlineExceeded
		case <-over:
			a.watched, a.writes = time.Since(begun), writes
			return nil
		}
	}
}

// scan reads all keys at one revision, page by page. Should that revision be
// compacted meanwhile, it goes on at the present one.
func (s *session) scan(ctx context.Context, c *clientv3.Client, o *topOptions, a *topAnswer) error {
	a.sizes = newCounters(topCounters, byBytes)
	from, span := o.span()
	end := clientv3.OpGet(from, span...).RangeBytes()
	var rev int64
	var shown *bar
	defer func() {
		if shown != nil {
			shown.clear()
		}
	}()
	for limit := int64(topPageKeys); ; {
		resp, err := s.page(ctx, c, from, string(end), rev, limit)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted):
			rev = 0
			continue
		case status.Code(err) == codes.ResourceExhausted && limit > 1:
			limit /= 2
			continue
		case err != nil:
			return err
		}
		if shown == nil {
			shown = s.bar("reading", resp.Count, counting("keys"))
		}
		rev = resp.Header.GetRevision()
		for _, kv := range resp.Kvs {
			a.count(kv)
		}
		shown.add(int64(len(resp.Kvs)))
		if !resp.More || len(resp.Kvs) == 0 {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].GetKey()) + "\x00"
		limit = min(2*limit, topPageKeys)
	}
}

// page reads some keys, within the time of a command.
func (s *session) page(ctx context.Context, c *clientv3.Client, from, end string, rev, limit int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.globals.commandTimeout)
	defer cancel()
	return c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithLimit(limit), clientv3.WithSerializable())
}

// topAnswer is what was seen.
type topAnswer struct {
	*topOptions
	watched time.Duration
	writes  *counters // nil: not watched
	sizes   *counters
	largest []largeKey // the largest first

	keys, bytes int64
}

type largeKey struct {
	Key     string `json:"key"`
	Bytes   int64  `json:"bytes"`
	Version int64  `json:"version"`
}

// count takes note of a key.
func (a *topAnswer) count(kv *mvccpb.KeyValue) {
	size := int64(len(kv.GetKey()) + len(kv.GetValue()))
	a.keys++
	a.bytes += size
	a.sizes.add(a.part(string(kv.GetKey())), 1, size)
	at, _ := slices.BinarySearchFunc(a.largest, size, func(l largeKey, size int64) int { return cmp.Compare(size, l.Bytes) })
	if at >= a.topOptions.count {
		return
	}
	a.largest = slices.Insert(a.largest, at, largeKey{string(kv.GetKey()), size, kv.GetVersion()})
	a.largest = a.largest[:min(len(a.largest), a.topOptions.count)]
}

// name is a prefix as it is shown.
func (a topAnswer) name(prefix string) string {
	if prefix == "" {
		return "(no prefix)"
	}
	return printable(prefix)
}

// printable keeps control characters of keys off the terminal.
func printable(text string) string {
	return strings.Trim(fmt.Sprintf("%q", text), `"`)
}

func (a topAnswer) simple(g *page) {
	if a.writes != nil {
		seconds := a.watched.Seconds()
		g.linef("Busiest prefixes, watched for %s: %.1f writes/s", a.watched.Round(100*time.Millisecond), float64(a.writes.sum.Count)/seconds)
		a.list(g, "PREFIX\tWRITES/S\tBYTES/S", a.writes.top(a.topOptions.count), func(c counter) string {
			return fmt.Sprintf("%s\t%.1f\t%s", a.name(c.Prefix), float64(c.Count)/seconds, inBytes().text(int64(float64(c.Bytes)/seconds)))
		})
	}
	g.linef("Largest prefixes, of %s keys with %s:", humanize.Comma(a.keys), inBytes().text(a.bytes))
	a.list(g, "PREFIX\tKEYS\tBYTES", a.sizes.top(a.topOptions.count), func(c counter) string {
		return fmt.Sprintf("%s\t%s\t%s", a.name(c.Prefix), humanize.Comma(c.Count), inBytes().text(c.Bytes))
	})
	g.line("Largest keys:")
	t := tabwriter.NewWriter(g, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tBYTES\tVERSIONS")
	for _, l := range a.largest {
		fmt.Fprintf(t, "%s\t%s\t%s\n", printable(l.Key), inBytes().text(l.Bytes), humanize.Comma(l.Version))
	}
	t.Flush() //nolint:errcheck // a buffer takes everything
}

func (a topAnswer) list(g *page, header string, top []counter, row func(counter) string) {
	t := tabwriter.NewWriter(g, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, header)
	for _, c := range top {
		fmt.Fprintln(t, row(c))
	}
	fmt.Fprintln(t)
	t.Flush() //nolint:errcheck // a buffer takes everything
}

func (a topAnswer) json(bool) any {
	whole := struct {
		Seconds float64    `json:"watched_seconds"`
		Writes  []counter  `json:"busiest_prefixes"`
		Keys    int64      `json:"keys"`
		Bytes   int64      `json:"bytes"`
		Sizes   []counter  `json:"largest_prefixes"`
		Largest []largeKey `json:"largest_keys"`
	}{a.watched.Seconds(), nil, a.keys, a.bytes, nil, a.largest}
	if a.writes != nil {
		whole.Writes = a.writes.top(a.topOptions.count)
	}
	whole.Sizes = a.sizes.top(a.topOptions.count)
	return whole
}
