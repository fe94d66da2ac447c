package sd

import "log/slog"

// The events below the daemon, and around it, that an operator must act on, by
// the MESSAGE_ID that the journal finds them by. Those of the daemon are with it;
// systemd/catalog/kvd.catalog explains all of them.
const (
	MessageEnded    = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c07" // the process ends with an error
	MessageUnfit    = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c08" // the member must be replaced
	MessageRemoved  = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c09" // the member is not one of the cluster any more
	MessageConfig   = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c0a" // the configuration cannot be started with
	MessageStalled  = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c0b" // the watchdog gets no sign of life
	MessageDisk     = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c0c" // the disk does not answer
	MessageDisagree = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c0d" // no majority says which members' data is right
	MessagePeerDown = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c0e" // another member is not reached any more
	MessageWaiting  = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c0f" // a start waits for the cluster
)

// Message marks a log record with its MESSAGE_ID.
func Message(id string) slog.Attr { return slog.String(MessageIDKey, id) }
