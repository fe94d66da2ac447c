package daemon

import (
	"context"
	"log/slog"
	"time"

	"kvd/internal/replica"
	"kvd/internal/sd"
)

// pulse tells the service manager that the member lives, as long as its loop
// and its applier move. A member that hangs is killed and started anew.
type pulse struct {
	due     <-chan time.Time
	ticker  *time.Ticker
	limit   time.Duration
	replica *replica.Replica
	notify  sd.Notifier
	log     *slog.Logger
	asking  chan struct{} // holds a token while a beat is under way
}

func newPulse(rep *replica.Replica, notify sd.Notifier, log *slog.Logger) *pulse {
	p := &pulse{replica: rep, notify: notify, log: log, asking: make(chan struct{}, 1)}
	interval, err := sd.Watchdog()
	if err != nil {
		log.Warn("the service manager's watchdog interval cannot be read; it gets no sign of life", "error", err)
	}
	if err == nil && interval > 0 {
		p.limit = interval / 2
		p.ticker = time.NewTicker(interval / 3)
		p.due = p.ticker.C
	}
	return p
}

// beat asks loop and applier in the background; one question at a time.
func (p *pulse) beat(ctx context.Context) {
	select {
	case p.asking <- struct{}{}:
	default:
		return // the last one is not answered yet
	}
	go func() {
		defer func() { <-p.asking }()
		ctx, cancel := context.WithTimeout(ctx, p.limit)
		defer cancel()
		if err := p.replica.Pulse(ctx); err != nil {
			p.log.Warn("the member does not move; the watchdog gets no sign of life", "error", err)
			return
		}
		if err := p.notify.Alive(); err != nil {
			p.log.Warn("could not tell the watchdog", "error", err)
		}
	}()
}

// stop ends the pulse and waits for a beat under way.
func (p *pulse) stop() {
	if p.ticker != nil {
		p.ticker.Stop()
	}
	p.asking <- struct{}{}
}
