package daemon

import (
	"context"
	"log/slog"
	"time"

	"kvd/internal/sd"
)

// mover is what must move for a member to live; a replica is one.
type mover interface {
	// Pulse returns when loop and applier have both taken notice of the call.
	Pulse(ctx context.Context) error
}

// pulse tells the service manager that the member lives, as long as its loop
// and its applier move. A member that hangs is killed and started anew.
type pulse struct {
	due    <-chan time.Time // nil: nobody watches
	ticker *time.Ticker
	limit  time.Duration // for an answer
	member mover
	notify sd.Notifier
	log    *slog.Logger
	asking chan struct{} // holds a token while a beat is under way
	ctx    context.Context
	cancel context.CancelFunc
}

func newPulse(member mover, notify sd.Notifier, log *slog.Logger) *pulse {
	p := &pulse{member: member, notify: notify, log: log, asking: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	interval, err := sd.Watchdog()
	if err != nil {
		log.Warn("the service manager's watchdog interval cannot be read; it gets no sign of life", message(sd.MessageStalled), slog.Any("error", err))
	}
	if err == nil && interval > 0 {
		p.limit = interval / 2
		p.ticker = time.NewTicker(interval / 3)
		p.due = p.ticker.C
	}
	return p
}

// beat asks loop and applier in the background; one question at a time.
func (p *pulse) beat() {
	select {
	case p.asking <- struct{}{}:
	default:
		return // the last one is not answered yet
	}
	go func() {
		defer func() { <-p.asking }()
		ctx, cancel := context.WithTimeout(p.ctx, p.limit)
		defer cancel()
		if err := p.member.Pulse(ctx); err != nil {
			if p.ctx.Err() == nil {
				p.log.Warn("the member does not move; the watchdog gets no sign of life", message(sd.MessageStalled), slog.Any("error", err))
			}
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
	p.cancel()
	p.asking <- struct{}{}
}
