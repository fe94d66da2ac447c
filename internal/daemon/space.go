package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"golang.org/x/sys/unix"

	"kvd/internal/upkeep"
)

// space measures the database for upkeep.
func (m *running) space() upkeep.Space {
	size, used := m.opened.Store.Size(), m.opened.Store.InUse()
	return upkeep.Space{Used: used + int64(m.replica.Pending()), Size: size, Free: size - used}
}

// sayFilled tells the operator when the database gets near its quota, and when
// it is not any more.
func (m *running) sayFilled(fill upkeep.Fill, used int64) {
	was := upkeep.Fill(m.filled.Swap(uint32(fill)))
	quota := m.config.Store.QuotaBytes
	say := func(level slog.Level, text, id string) {
		m.log.LogAttrs(context.Background(), level, text, message(id),
			slog.Int64("bytes", used), slog.Int64("quota", quota), slog.String("in-use", amount(used)+" of "+amount(quota)))
	}
	switch {
	case fill == upkeep.Exhausted && m.config.Store.AutoDisarm:
		say(slog.LevelError, "the database is full: writes are refused until keys are deleted or compacted, or the quota is raised", messageFull)
	case fill == upkeep.Exhausted:
		say(slog.LevelError, "the database is full: writes are refused until space is made and the alarm is lowered with 'kvctl alarm disarm'", messageFull)
	case fill > was:
		say(slog.LevelWarn, "the database is nearly full: compact or delete keys, or raise quota-backend-bytes", messageLow)
	case fill == upkeep.Plenty:
		say(slog.LevelInfo, "the database is not near its quota any more", messagePlenty)
	}
}

// fullness is what the status line says of the space: how much of the quota is
// in use, and whether that calls for somebody.
func (m *running) fullness() string {
	used, quota := m.opened.Store.InUse(), m.config.Store.QuotaBytes
	text := amount(used)
	if quota > 0 {
		text += " of " + amount(quota)
	}
	text += " in use"
	switch upkeep.Fill(m.filled.Load()) {
	case upkeep.Exhausted:
		text += ", FULL: writes are refused"
	case upkeep.Low:
		text += ", nearly full"
	}
	return text
}

// spareBytes must stay free beside a copy of the database: the log needs them.
const spareBytes = 256 << 20

// copyRoom says why there is no room for a copy of the database.
func (m *running) copyRoom(bytes int64) error {
	dir := filepath.Dir(m.opened.Store.Path())
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; free < bytes+spareBytes {
		return fmt.Errorf("%s has %s free, and a copy with what must stay free needs %s", dir, amount(free), amount(bytes+spareBytes))
	}
	return nil
}
