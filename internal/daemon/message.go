package daemon

import (
	"log/slog"

	"kvd/internal/sd"
)

// The events that an operator may want to be told of, by the MESSAGE_ID that
// the journal finds them by.
const (
	messageReady    = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c01"
	messageStopping = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c02"
	messageFailed   = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c03"
	messageReloaded = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c04"
	messageRefused  = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c05"
	messageCorrupt  = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c06"
	messageOther    = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c10" // another member is corrupt

	messageLow    = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c31"
	messageFull   = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c32"
	messagePlenty = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c33"
)

// Those of TLS and of who may listen in.
const (
	messageCredentials        = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c21"
	messageCredentialsRefused = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c22"
	messageExpires            = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c23"
	messageExposed            = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c24"
)

// message marks a log record with its MESSAGE_ID.
func message(id string) slog.Attr { return sd.Message(id) }
