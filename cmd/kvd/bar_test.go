package main

import (
	"strings"
	"testing"
	"time"
)

func TestTheBarShowsLongWorkAndLeavesNothing(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	b := &bar{out: &out, now: func() time.Time { return now }}
	b.show("copying", 1, 100)
	if out.Len() > 0 {
		t.Errorf("work that has just begun: %q", out.String())
	}
	now = now.Add(time.Second)
	b.show("copying", 20, 100)
	if got := out.String(); !strings.HasPrefix(got, "\rcopying [######........................]  20 %, 4s left") {
		t.Errorf("%q", got)
	}
	shown := out.Len()
	now = now.Add(time.Millisecond)
	b.show("copying", 21, 100)
	if out.Len() > shown {
		t.Error("it is drawn too often")
	}
	now = now.Add(time.Second)
	b.show("copying", 60, 100)
	b.show("copying", 100, 100)
	lines := strings.Split(out.String(), "\r")
	if last := lines[len(lines)-1]; last != "" || strings.TrimSpace(lines[len(lines)-2]) != "" {
		t.Errorf("something is left on the line: %q", lines)
	}
	out.Reset()
	b.show("syncing", 0, 0) // nothing to do
	now = now.Add(time.Hour)
	b.show("syncing", 5, 0)
	if out.Len() > 0 {
		t.Errorf("%q", out.String())
	}
}

func TestProgressIsForTerminalsOnly(t *testing.T) {
	var out, errs strings.Builder
	tl := newTool(&out, &errs)
	o, err := tl.files()
	if err != nil || o.Progress != nil {
		t.Errorf("progress into a pipe (%v)", err)
	}
	tl.terminal = true
	if o, err = tl.files(); err != nil || o.Progress == nil {
		t.Errorf("no progress on a terminal (%v)", err)
	}
}
