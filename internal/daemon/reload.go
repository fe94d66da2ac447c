package daemon

import (
	"context"
	"log/slog"

	"kvd/internal/config"
)

// reload applies what may change while the member runs. A configuration with
// faults changes nothing.
func (m *running) reload(ctx context.Context, again Reread) {
	if err := m.notify.Reloading(); err != nil {
		m.log.Warn("could not tell the service manager of the reload", "error", err)
	}
	defer func() {
		if err := m.notify.Ready("serving"); err != nil {
			m.log.Warn("could not tell the service manager that the reload is over", "error", err)
		}
	}()
	if again.Err != nil {
		m.log.LogAttrs(ctx, slog.LevelError, "the configuration was not reloaded: it has faults; the old one stays in force",
			message(messageRefused), slog.Any("error", again.Err))
		return
	}
	changed, later := config.Changes(m.config, again.Config)
	m.in.Log.SetLevel(again.Config.Log.Level)
	m.config = again.Config
	m.log.LogAttrs(ctx, slog.LevelInfo, "reloaded the configuration", message(messageReloaded), slog.Any("changed", changed))
	if len(later) > 0 {
		m.log.Warn("some changes need a restart", "options", later)
	}
}
