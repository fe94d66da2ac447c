package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// formats are the values of --write-out.
var formats = []string{"fields", "json", "protobuf", "simple", "table"}

func known(format string) bool { return slices.Contains(formats, format) }

// answer is something to print. Every answer has a simple form and a JSON
// form; it may have the others below.
type answer interface {
	simple(g *page)
	json(hex bool) any
}

type (
	fielder interface{ fields(g *page) }
	tabler  interface {
		table() (header []string, rows [][]string)
	}
	messager interface{ message() proto.Message }
)

// supports says whether a can be printed in format.
func supports(format string, a answer) error {
	ok := true
	switch format {
	case "fields":
		_, ok = a.(fielder)
	case "table":
		_, ok = a.(tabler)
	case "protobuf":
		_, ok = a.(messager)
	}
	if !ok {
		return failf(exitBadFeature, "%s not supported as output format", format)
	}
	return nil
}

// print writes a to standard output, in one piece.
func (p *program) print(a answer) error {
	g := &page{hex: p.globals.hex}
	switch p.globals.format {
	case "simple":
		a.simple(g)
	case "fields":
		a.(fielder).fields(g)
	case "json":
		text, err := json.Marshal(a.json(g.hex))
		if err != nil {
			return fail(exitError, err)
		}
		g.line(string(text))
	case "protobuf":
		bin, err := proto.Marshal(a.(messager).message())
		if err != nil {
			return fail(exitError, err)
		}
		g.Write(bin)
	case "table":
		if err := g.table(a.(tabler).table()); err != nil {
			return fail(exitError, err)
		}
	}
	return p.write(g.Bytes())
}

// write puts raw bytes on standard output. An answer that nobody could read
// is not a success.
func (p *program) write(text []byte) error {
	if _, err := p.out.Write(text); err != nil {
		return fail(exitIO, err)
	}
	return nil
}

// say prints a line that is the same in every format.
func (p *program) say(format string, args ...any) error {
	return p.write(fmt.Appendf(nil, format+"\n", args...))
}

// page collects one answer's text.
type page struct {
	bytes.Buffer
	hex bool
}

func (g *page) line(words ...any) { fmt.Fprintln(g, words...) }

func (g *page) linef(format string, args ...any) { fmt.Fprintf(g, format+"\n", args...) }

func (g *page) table(header []string, rows [][]string) error {
	cfg := tablewriter.NewConfigBuilder().WithRowAlignment(tw.AlignRight).Build()
	t := tablewriter.NewTable(g, tablewriter.WithConfig(cfg))
	t.Header(header)
	for _, row := range rows {
		if err := t.Append(row); err != nil {
			return err
		}
	}
	return t.Render()
}

// rows is the simple form of what is a table elsewhere.
func (g *page) rows(_ []string, rows [][]string) {
	for _, row := range rows {
		g.line(strings.Join(row, ", "))
	}
}

// pair prints a key and its value, each on a line of its own.
func (g *page) pair(kv *mvccpb.KeyValue) {
	g.line(g.text(kv.GetKey()))
	g.line(g.text(kv.GetValue()))
}

// text is b as it is, or as \x61\x62 with --hex.
func (g *page) text(b []byte) string {
	if !g.hex {
		return string(b)
	}
	var s strings.Builder
	for i := range b {
		s.WriteString(`\x`)
		s.WriteString(hex.EncodeToString(b[i : i+1]))
	}
	return s.String()
}

// id prints the identity of a member or cluster under name.
func (g *page) id(name string, id uint64) {
	if g.hex {
		g.linef(`"%s" : %x`, name, id)
		return
	}
	g.linef(`"%s" : %d`, name, id)
}

// lease prints a lease's identity under name.
func (g *page) lease(name string, id int64) {
	if g.hex {
		g.linef(`"%s" : %016x`, name, id)
		return
	}
	g.linef(`"%s" : %d`, name, id)
}

// header prints an answer's header as fields. Answers about something other
// than keys carry no revision, and then none is shown.
func (g *page) header(h *pb.ResponseHeader) {
	g.id("ClusterID", h.GetClusterId())
	g.id("MemberID", h.GetMemberId())
	if h.GetRevision() > 0 {
		g.linef(`"Revision" : %d`, h.GetRevision())
	}
	g.linef(`"RaftTerm" : %d`, h.GetRaftTerm())
}

// pairFields prints kv as fields whose names begin with prefix.
func (g *page) pairFields(prefix string, kv *mvccpb.KeyValue) {
	g.linef(`"%sKey" : %q`, prefix, kv.GetKey())
	g.linef(`"%sCreateRevision" : %d`, prefix, kv.GetCreateRevision())
	g.linef(`"%sModRevision" : %d`, prefix, kv.GetModRevision())
	g.linef(`"%sVersion" : %d`, prefix, kv.GetVersion())
	g.linef(`"%sValue" : %q`, prefix, kv.GetValue())
	g.lease(prefix+"Lease", kv.GetLease())
}
