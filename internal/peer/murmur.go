package peer

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// A fact that comes up again and again is logged as often as this; in between it
// goes to the debug level.
const (
	murmurEvery = 30 * time.Second
	murmurFacts = 64 // told apart; with more than that somebody makes them up
)

// murmur is a log for what strangers and lost members can make happen all the
// time.
type murmur struct {
	log *slog.Logger

	mu   sync.Mutex
	told map[string]time.Time
}

func newMurmur(log *slog.Logger) *murmur { return &murmur{log: log, told: map[string]time.Time{}} }

// warn logs a fact; subject is who it is about.
func (m *murmur) warn(text, subject string, args ...any) { m.say(slog.LevelWarn, text, subject, args) }

// info is warn for what is no fault.
func (m *murmur) info(text, subject string, args ...any) { m.say(slog.LevelInfo, text, subject, args) }

func (m *murmur) say(level slog.Level, text, subject string, args []any) {
	if !m.due(text+" "+subject, time.Now()) {
		level = slog.LevelDebug
	}
	m.log.Log(context.Background(), level, text, args...)
}

func (m *murmur) due(fact string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.told[fact]; ok && now.Sub(at) < murmurEvery {
		return false
	}
	if len(m.told) >= murmurFacts {
		for old, at := range m.told {
			if now.Sub(at) >= murmurEvery {
				delete(m.told, old)
			}
		}
	}
	if len(m.told) >= murmurFacts {
		return false
	}
	m.told[fact] = now
	return true
}
