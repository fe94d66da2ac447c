package daemon

import (
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kvd/internal/config"
)

// moment is when everything happens that these tests log.
var moment = time.Date(2026, 5, 4, 3, 2, 1, 678_000_000, time.UTC)

func TestALineReadsAsASentence(t *testing.T) {
	for _, c := range []struct {
		level   slog.Level
		message string
		fields  []any
		want    string
	}{
		{slog.LevelInfo, "elected leader", []any{"leader", "8e9e", "term", 2}, "INFO  elected leader leader=8e9e term=2"},
		{slog.LevelWarn, "slow", []any{"took", 1500 * time.Millisecond, "key", "a b", "none", ""}, `WARN  slow took=1.5s key="a b" none=""`},
		{slog.LevelError, "kvd ends", []any{"error", errors.New("disk: full"), "n", 1}, "ERROR kvd ends: disk: full n=1"},
		{slog.LevelDebug, "many", []any{"error", errors.Join(errors.New("one"), errors.New("two"))}, "DEBUG many: one\n    two"},
		{slog.LevelInfo, "ready", []any{messageReadyField()}, "INFO  ready"},
		{slog.LevelInfo, "group", []any{slog.Group("g", "a", 1, slog.Group("h", "b", 2))}, "INFO  group g.a=1 g.h.b=2"},
		{slog.LevelInfo, "at", []any{"t", moment}, "INFO  at t=2026-05-04T03:02:01.678Z"},
		{slog.LevelInfo, "steering \x1b[2J", []any{"k", "\x1b[0m", "error", errors.New("a\tb \x1b")}, `INFO  steering \x1b[2J: a\tb \x1b k="\x1b[0m"`},
	} {
		var out strings.Builder
		h := newLines(&out, slog.LevelDebug)
		r := slog.NewRecord(moment, c.level, c.message, 0)
		r.Add(c.fields...)
		must(t, h.Handle(t.Context(), r))
		if want := "2026-05-04 03:02:01.678 " + c.want + "\n"; out.String() != want {
			t.Errorf("got  %swant %s", out.String(), want)
		}
	}
}

func messageReadyField() slog.Attr { return message(messageReady) }

func TestDerivedLinesCarryTheirFields(t *testing.T) {
	var out strings.Builder
	level := &slog.LevelVar{}
	log := slog.New(newLines(&out, level)).With("a", 1).WithGroup("g").With("b", 2)
	log.Info("hello", "c", 3)
	log.Debug("not this")
	if got := out.String(); !strings.HasSuffix(got, " INFO  hello a=1 g.b=2 g.c=3\n") || strings.Count(got, "\n") != 1 {
		t.Errorf("%q", got)
	}
	level.Set(slog.LevelDebug)
	log.Debug("but this")
	if !strings.Contains(out.String(), "but this") {
		t.Error("the level did not change")
	}
}

func TestJSONHasEtcdsKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := NewLogger(config.Log{Format: "json", Level: slog.LevelInfo, Outputs: []string{path}})
	must(t, err)
	l.LogAttrs(t.Context(), slog.LevelWarn, "slow", slog.Duration("took", 1500*time.Millisecond), message(messageReady),
		slog.Any("error", errors.New("late")), slog.Any("urls", []string{"a", "b"}), slog.Group("g", slog.Duration("d", time.Second)))
	must(t, l.Close())
	var got map[string]any
	must(t, json.Unmarshal([]byte(read(t, path)), &got))
	at, err := time.Parse("2006-01-02T15:04:05.000000Z0700", got["ts"].(string))
	if err != nil || time.Since(at) > time.Minute {
		t.Errorf("ts %v: %v", got["ts"], err)
	}
	if caller := got["caller"].(string); !strings.HasPrefix(caller, "daemon/lines_test.go:") {
		t.Error(caller)
	}
	delete(got, "ts")
	delete(got, "caller")
	b, err := json.Marshal(got)
	must(t, err)
	const want = `{"error":"late","g":{"d":"1s"},"level":"warn","msg":"slow","took":"1.5s","urls":["a","b"]}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}

func TestEveryOutputGetsTheLog(t *testing.T) {
	paths := []string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")}
	l, err := NewLogger(config.Log{Format: "auto", Outputs: paths})
	must(t, err)
	l.Info("hello")
	must(t, l.Close())
	for _, path := range paths {
		if got := read(t, path); !strings.HasSuffix(got, "INFO  hello\n") {
			t.Errorf("%s: %q", path, got)
		}
	}
	if _, err := NewLogger(config.Log{Outputs: []string{"/proc/no/such/log"}}); err == nil || !strings.Contains(err.Error(), "log-outputs") {
		t.Errorf("%v", err)
	}
}
