package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"kvd/internal/config"
	"kvd/internal/sd"
)

// journalOutput is the value of log-outputs that means journald.
const journalOutput = "systemd/journal"

// Logger is the log of the process, with a level that can be changed.
type Logger struct {
	*slog.Logger
	level   *slog.LevelVar
	closes  []io.Closer
	journal *sd.Journal // nil: the log goes elsewhere
}

// NewLogger opens the log that the configuration asks for: the journal under
// systemd, readable lines on a terminal, JSON where asked.
func NewLogger(c config.Log) (*Logger, error) {
	l := &Logger{level: &slog.LevelVar{}}
	l.level.Set(c.Level)
	handler, err := l.open(c)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.Logger = slog.New(handler)
	return l, nil
}

// open opens what takes the records. Files and streams get the same; the
// journal stands alone.
func (l *Logger) open(c config.Log) (slog.Handler, error) {
	format := c.Format
	standard := slices.Equal(c.Outputs, []string{"default"})
	switch {
	case slices.Contains(c.Outputs, journalOutput), format == "auto" && standard && sd.UnderJournal():
		format = "journal"
	case format == "auto":
		format = "text"
	}
	if format == "journal" {
		journal, err := sd.NewJournal("", l.level)
		if err != nil {
			return nil, fmt.Errorf("log to the journal: %w", err)
		}
		l.journal = journal
		l.closes = append(l.closes, journal)
		return journal, nil
	}
	out, err := l.openOutputs(c)
	if err != nil {
		return nil, err
	}
	if format == "json" {
		return slog.NewJSONHandler(out, &slog.HandlerOptions{Level: l.level, AddSource: true, ReplaceAttr: likeEtcd}), nil
	}
	return newLines(out, l.level), nil
}

// openOutputs opens the outputs that are named; "default" is standard error.
func (l *Logger) openOutputs(c config.Log) (io.Writer, error) {
	var all []io.Writer
	for _, name := range c.Outputs {
		switch name {
		case "default", "stderr":
			all = append(all, os.Stderr)
		case "stdout":
			all = append(all, os.Stdout)
		default:
			file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
			if err != nil {
				return nil, fmt.Errorf("log-outputs: %w", err)
			}
			out, err := rotating(file, c)
			if err != nil {
				return nil, err
			}
			l.closes = append(l.closes, out)
			all = append(all, out)
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return io.MultiWriter(all...), nil
}

// likeEtcd gives a record the keys and forms that readers of etcd's log know.
func likeEtcd(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return plain(a)
	}
	switch a.Key {
	case slog.TimeKey:
		return slog.String("ts", a.Value.Time().Format("2006-01-02T15:04:05.000000Z0700"))
	case slog.LevelKey:
		if level, ok := a.Value.Any().(slog.Level); ok {
			return slog.String("level", levelWord(level))
		}
	case slog.SourceKey:
		if source, ok := a.Value.Any().(*slog.Source); ok {
			return slog.String("caller", caller(source))
		}
	case sd.MessageIDKey:
		return slog.Attr{} // of the journal
	}
	return plain(a)
}

// plain writes durations with their unit, not in nanoseconds.
func plain(a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	return a
}

func levelWord(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "error"
	case level >= slog.LevelWarn:
		return "warn"
	case level >= slog.LevelInfo:
		return "info"
	}
	return "debug"
}

// caller is "package/file.go:12".
func caller(s *slog.Source) string {
	dir, file := filepath.Split(s.File)
	return filepath.Base(strings.TrimSuffix(dir, "/")) + "/" + file + ":" + strconv.Itoa(s.Line)
}

// Describe sets what every record says besides its own attributes. Only the
// journal keeps that: in a line it would be noise.
func (l *Logger) Describe(about sd.About) {
	if l.journal != nil {
		l.journal.Describe(about)
	}
}

// Level is what is logged at least.
func (l *Logger) Level() slog.Level { return l.level.Level() }

// SetLevel changes what is logged from now on.
func (l *Logger) SetLevel(level slog.Level) { l.level.Set(level) }

// Close closes the outputs that were opened.
func (l *Logger) Close() error {
	var err error
	for _, c := range l.closes {
		err = errors.Join(err, c.Close())
	}
	return err
}
