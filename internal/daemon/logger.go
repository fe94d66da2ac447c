package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"kvd/internal/config"
	"kvd/internal/sd"
)

// Logger is the log of the process, with a level that can be changed.
type Logger struct {
	*slog.Logger
	level  *slog.LevelVar
	closes []io.Closer
}

// NewLogger opens the log that the configuration asks for: the journal under
// systemd, readable lines on a terminal, JSON where asked.
func NewLogger(c config.Log) (*Logger, error) {
	l := &Logger{level: &slog.LevelVar{}}
	l.level.Set(c.Level)
	out, err := l.open(c.Outputs)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	handler, err := l.handler(c, out)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.Logger = slog.New(handler)
	return l, nil
}

func (l *Logger) handler(c config.Log, out io.Writer) (slog.Handler, error) {
	format := c.Format
	if slices.Contains(c.Outputs, "systemd/journal") {
		format = "journal"
	}
	if format == "auto" {
		format = "text"
		if sd.UnderJournal() && slices.Equal(c.Outputs, []string{"default"}) {
			format = "journal"
		}
	}
	options := &slog.HandlerOptions{Level: l.level}
	switch format {
	case "journal":
		journal, err := sd.NewJournal("", l.level)
		if err != nil {
			return nil, fmt.Errorf("log to the journal: %w", err)
		}
		l.closes = append(l.closes, journal)
		return journal, nil
	case "json":
		return slog.NewJSONHandler(out, options), nil
	default:
		return slog.NewTextHandler(out, options), nil
	}
}

// open opens the outputs that are named; "default" is standard error.
func (l *Logger) open(outputs []string) (io.Writer, error) {
	var all []io.Writer
	for _, name := range outputs {
		switch name {
		case "default", "stderr":
			all = append(all, os.Stderr)
		case "stdout":
			all = append(all, os.Stdout)
		case "systemd/journal":
		default:
			file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
			if err != nil {
				return nil, fmt.Errorf("log-outputs: %w", err)
			}
			l.closes = append(l.closes, file)
			all = append(all, file)
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return io.MultiWriter(all...), nil
}

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
