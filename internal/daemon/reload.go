package daemon

import (
	"context"
	"log/slog"

	"kvd/internal/config"
)

// reload applies what may change while the member runs: the level of the log, and
// the files of TLS, which are read again whether their names have changed or not.
// A configuration that could not be started with changes nothing. What needs a
// restart is named each time until there is one. It returns the status line that
// was told at the end.
func (m *running) reload(ctx context.Context, again Reread) (told string) {
	if err := m.notify.Reloading("taking over the configuration"); err != nil {
		m.log.Warn("could not tell the service manager of the reload", "error", err)
	}
	defer func() {
		told = m.standing()
		if err := m.notify.Ready(told); err != nil {
			m.log.Warn("could not tell the service manager that the reload is over", "error", err)
		}
	}()
	if again.Err != nil {
		m.log.LogAttrs(ctx, slog.LevelError, "the configuration was not reloaded, the old one stays in force",
			message(messageRefused), slog.Any("error", again.Err))
		return told
	}
	m.clients.reload(ctx, again.Config.ClientTLS)
	m.peers.reload(ctx, again.Config.PeerTLS)
	m.members.reload(ctx, again.Config.ClientTLS)
	_, later := config.Changes(m.config, again.Config)
	changed := []string{}
	was, is := m.in.Log.Level(), again.Config.Log.Level
	if was != is {
		changed = append(changed, "log-level")
	}
	m.in.Log.SetLevel(min(was, is)) // so that the change itself is heard of
	defer m.in.Log.SetLevel(is)
	m.log.LogAttrs(ctx, slog.LevelInfo, "reloaded the configuration", message(messageReloaded), slog.Any("changed", changed))
	if len(later) > 0 {
		m.log.Warn("some changes need a restart", "options", later)
	}
	return told
}
