package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

func (p *program) txnCommand() *cobra.Command {
	var interactive bool
	cmd := &cobra.Command{
		Use:     "txn [options]",
		Aliases: []string{"t"},
		Short:   "Reads requests from standard input and applies them as one transaction",
		Long: `Reads a transaction from standard input and applies it, whole or not at all.

It has three parts, each a line per item and ended by an empty line: conditions,
requests for when all of them hold, and requests for when one does not.

$ kvctl txn <<END
mod("key1") > "0"

put key1 "there before"

put key1 "new"
put key2 "new too"

END

Conditions: ver|version, c|create, m|mod, val|value, lease, each with ("key"),
then <, =, != or >, then the other side in double quotes (a lease in hexadecimal).
Requests: get, put and del, with their flags.`,
		GroupID: groupKV,
		Run:     p.does(func(cmd *cobra.Command, args []string) error { return p.txn(cmd, args, interactive) }),
	}
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "say what is expected next")
	return cmd
}

func (p *program) txn(cmd *cobra.Command, args []string, interactive bool) error {
	if len(args) != 0 {
		return failf(exitBadArgs, "txn command does not accept argument")
	}
	s, c, err := p.open(cmd, txnAnswer{})
	if err != nil {
		return err
	}
	defer hangUp(c)

	lines := bufio.NewReader(p.in)
	prompt := func(text string) error {
		if !interactive {
			return nil
		}
		return p.say("%s", text)
	}
	if err := prompt("compares:"); err != nil {
		return err
	}
	conditions, err := readPart(lines, parseCompare)
	if err != nil {
		return err
	}
	var branches [2][]clientv3.Op
	for i, name := range []string{"success", "failure"} {
		if err := prompt(name + " requests (get, put, del):"); err != nil {
			return err
		}
		if branches[i], err = readPart(lines, p.parseRequest); err != nil {
			return err
		}
	}

	ctx, cancel := s.context()
	defer cancel()
	resp, err := c.Txn(ctx).If(conditions...).Then(branches[0]...).Else(branches[1]...).Commit()
	if err != nil {
		return s.refused(exitError, err)
	}
	return p.print(txnAnswer{(*pb.TxnResponse)(resp)})
}

// readPart reads lines through the next empty one. Input that ends before it
// is refused: half a transaction must not be taken for a whole one.
func readPart[T any](lines *bufio.Reader, parse func(line string) (T, error)) (items []T, err error) {
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil, fail(exitInvalidInput, err)
		}
		line = strings.TrimSpace(line)
		if line == "" {
			return items, nil
		}
		item, err := parse(line)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
}

// parseRequest reads one line as a get, put or del command would be.
func (p *program) parseRequest(line string) (op clientv3.Op, err error) {
	words, err := splitWords(line)
	if err != nil {
		return op, fail(exitInvalidInput, err)
	}
	if len(words) < 2 {
		return op, failf(exitInvalidInput, "invalid txn compare request: %s", line)
	}
	var (
		get getOptions
		put putOptions
		del delOptions
	)
	read, outcome := false, error(nil)
	verb := func(name string, bind func(*cobra.Command), request func(args []string) (clientv3.Op, error)) *cobra.Command {
		cmd := &cobra.Command{Use: name, Run: func(_ *cobra.Command, args []string) {
			read = true
			op, outcome = request(args)
		}}
		bind(cmd)
		return cmd
	}
	root := &cobra.Command{Use: "txn", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(
		verb("get", get.bind, func(args []string) (clientv3.Op, error) {
			key, opts, err := get.request(args)
			return clientv3.OpGet(key, opts...), err
		}),
		verb("put", put.bind, func(args []string) (clientv3.Op, error) {
			// Standard input holds the transaction, never a value.
			key, value, opts, err := put.request(args, strings.NewReader(""))
			return clientv3.OpPut(key, value, opts...), err
		}),
		verb("del", del.bind, func(args []string) (clientv3.Op, error) {
			key, opts, err := del.request(args, p.errs)
			return clientv3.OpDelete(key, opts...), err
		}),
	)
	root.SetArgs(words)
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	if err := root.Execute(); err != nil || !read { // not read: help was asked for
		return op, failf(exitInvalidInput, "invalid txn request: %s", line)
	}
	return op, outcome
}

// parseCompare reads a condition, such as: mod("key") > "7".
func parseCompare(line string) (cmp clientv3.Cmp, err error) {
	target, rest, ok := strings.Cut(line, "(")
	if !ok {
		return cmp, failf(exitInvalidInput, "malformed comparison: %s", line)
	}
	var key, operator, value string
	// NB: the messages show how far Sscanf came, so it has to be Sscanf.
	if n, err := fmt.Sscanf(rest, "%q) %s %q", &key, &operator, &value); n != 3 {
		return cmp, failf(exitInvalidInput, "malformed comparison: %s; got %s(%q) %s %q", line, target, key, operator, value)
	} else if err != nil {
		return cmp, failf(exitInvalidInput, "malformed comparison: %s (%w)", line, err)
	}
	switch operator {
	case "=", "!=", ">", "<":
	default: // the library would panic, as etcdctl does
		return cmp, failf(exitInvalidInput, "malformed comparison: %s (unknown operator %s; <, =, != and > are known)", line, operator)
	}
	number := func(base int) int64 {
		var n int64
		n, err = strconv.ParseInt(value, base, 64)
		return n
	}
	switch target {
	case "ver", "version":
		cmp = clientv3.Compare(clientv3.Version(key), operator, number(10))
	case "c", "create":
		cmp = clientv3.Compare(clientv3.CreateRevision(key), operator, number(10))
	case "m", "mod":
		cmp = clientv3.Compare(clientv3.ModRevision(key), operator, number(10))
	case "val", "value":
		cmp = clientv3.Compare(clientv3.Value(key), operator, value)
	case "lease":
		cmp = clientv3.Compare(clientv3.LeaseValue(key), operator, number(16))
	default:
		return cmp, failf(exitInvalidInput, "malformed comparison: %s (unknown target %s)", line, target)
	}
	if err != nil {
		return cmp, failf(exitInvalidInput, "invalid txn compare request: %s", line)
	}
	return cmp, nil
}

type txnAnswer struct{ *pb.TxnResponse }

// parts are the answers to the requests of the branch taken. A nested
// transaction is nil: no command line asks for one.
func (a txnAnswer) parts() []answer {
	parts := make([]answer, len(a.GetResponses()))
	for i, r := range a.GetResponses() {
		switch r := r.GetResponse().(type) {
		case *pb.ResponseOp_ResponseRange:
			parts[i] = getAnswer{RangeResponse: r.ResponseRange}
		case *pb.ResponseOp_ResponsePut:
			parts[i] = putAnswer{r.ResponsePut}
		case *pb.ResponseOp_ResponseDeleteRange:
			parts[i] = delAnswer{r.ResponseDeleteRange}
		}
	}
	return parts
}

func (a txnAnswer) simple(g *page) {
	if a.GetSucceeded() {
		g.line("SUCCESS")
	} else {
		g.line("FAILURE")
	}
	for i, part := range a.parts() {
		g.line()
		if part == nil {
			g.linef("unexpected response %+v", a.GetResponses()[i])
			continue
		}
		part.simple(g)
	}
}

func (a txnAnswer) fields(g *page) {
	g.header(a.GetHeader())
	g.line(`"Succeeded" :`, a.GetSucceeded())
	for i, part := range a.parts() {
		if part == nil {
			g.linef(`"Unknown" : %q`, fmt.Sprintf("%+v", a.GetResponses()[i].GetResponse()))
			continue
		}
		part.(fielder).fields(g)
	}
}

func (a txnAnswer) message() proto.Message { return a.TxnResponse }

// json has a shape of its own: the library's type would name the answers by
// Go's names and not by the API's.
func (a txnAnswer) json(hex bool) any {
	type named struct {
		Range  any `json:"response_range,omitempty"`
		Put    any `json:"response_put,omitempty"`
		Delete any `json:"response_delete_range,omitempty"`
	}
	type response struct {
		Response named `json:"Response"`
	}
	whole := struct {
		Header    *pb.ResponseHeader `json:"header,omitempty"`
		Succeeded bool               `json:"succeeded,omitempty"`
		Responses []response         `json:"responses,omitempty"`
	}{Header: a.GetHeader(), Succeeded: a.GetSucceeded()}
	for _, part := range a.parts() {
		var r response
		switch part := part.(type) {
		case getAnswer:
			r.Response.Range = part.json(hex)
		case putAnswer:
			r.Response.Put = part.json(hex)
		case delAnswer:
			r.Response.Delete = part.json(hex)
		}
		whole.Responses = append(whole.Responses, r)
	}
	return whole
}
