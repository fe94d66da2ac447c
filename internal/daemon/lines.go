package daemon

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"kvd/internal/sd"
)

// lines is a slog.Handler for people: a record is a line of time, level,
// message and fields. An error stands behind the message, as it would in a
// sentence. Safe for many goroutines.
type lines struct {
	out    *shared
	level  slog.Leveler
	fields []byte // of WithAttrs, as they are written; never changed, only replaced
	group  string // prefix of field names: "a.b."
}

// shared is the output of a handler and what was derived from it.
type shared struct {
	mu  sync.Mutex
	out io.Writer
}

func newLines(out io.Writer, level slog.Leveler) *lines {
	return &lines{out: &shared{out: out}, level: level}
}

// Enabled implements slog.Handler.
func (h *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

// WithAttrs implements slog.Handler.
func (h *lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	derived := *h
	derived.fields = append([]byte(nil), h.fields...)
	for _, a := range attrs {
		derived.fields = appendField(derived.fields, h.group, a)
	}
	return &derived
}

// WithGroup implements slog.Handler.
func (h *lines) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	derived := *h
	derived.group += name + "."
	return &derived
}

// Handle implements slog.Handler.
func (h *lines) Handle(_ context.Context, r slog.Record) error {
	line := make([]byte, 0, 256)
	line = r.Time.AppendFormat(line, "2006-01-02 15:04:05.000 ")
	word := strings.ToUpper(levelWord(r.Level))
	line = append(line, word...)
	line = append(line, "      "[len(word):]...)
	line = appendClean(line, r.Message)
	var after []byte
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && a.Key == "error" && h.group == "" {
			line = append(line, ": "...)
			line = appendClean(line, err.Error())
			return true
		}
		after = appendField(after, h.group, a)
		return true
	})
	line = append(line, h.fields...)
	line = append(line, after...)
	line = append(line, '\n')
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.out.Write(line)
	return err
}

// appendField writes " key=value".
func appendField(line []byte, group string, a slog.Attr) []byte {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, inner := range value.Group() {
			line = appendField(line, group, inner)
		}
		return line
	}
	if a.Key == "" || a.Key == sd.MessageIDKey && group == "" { // that one is of the journal
		return line
	}
	line = append(line, ' ')
	line = append(line, group...)
	line = append(line, a.Key...)
	line = append(line, '=')
	text := value.String()
	if value.Kind() == slog.KindTime {
		text = value.Time().Format(time.RFC3339Nano)
	}
	if text == "" || strings.ContainsAny(text, " \t\"=") || strings.ContainsFunc(text, unprintable) {
		return strconv.AppendQuote(line, text)
	}
	return append(line, text...)
}

// appendClean writes a text that may hold anything: what follows a line break is
// set in, and nothing reaches the terminal that would steer it.
func appendClean(line []byte, text string) []byte {
	for i, part := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if i > 0 {
			line = append(line, "\n    "...)
		}
		if strings.ContainsFunc(part, unprintable) {
			quoted := strconv.Quote(part)
			part = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
		}
		line = append(line, part...)
	}
	return line
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
