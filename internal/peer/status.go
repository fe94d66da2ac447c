package peer

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/sd"
)

// status is whether another member can be reached, as far as the last thing that
// was tried on any of its connections tells.
type status struct {
	log    *slog.Logger // names the member
	active prometheus.Gauge
	lost   prometheus.Counter

	mu    sync.Mutex
	since time.Time // zero: not active
	gone  bool      // for good; what still goes on counts no more
}

func (s *status) up() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || !s.since.IsZero() {
		return
	}
	s.since = time.Now()
	s.active.Set(1)
	s.log.Info("peer became active")
}

// down notes that something failed: doing names it.
func (s *status) down(doing string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		s.log.Debug("peer is still inactive", slog.String("doing", doing), slog.Any("error", err))
		return
	}
	s.since = time.Time{}
	s.active.Set(0)
	s.lost.Inc()
	s.log.Warn("peer became inactive", sd.Message(sd.MessagePeerDown), slog.String("doing", doing), slog.Any("error", err))
}

// forget is the end of a member that is not one any more.
func (s *status) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since, s.gone = time.Time{}, true
	s.active.Set(0)
}

func (s *status) activeSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since
}
