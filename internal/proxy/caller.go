package proxy

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"
)

// identity is what of a caller's metadata a member looks at. Only callers with
// equal identities share what they ask for.
type identity string

// identityKeys are the metadata that a member looks at: who calls, and whether
// the call may be served without a leader.
var identityKeys = [...]string{"token", "authorization", "hasleader"}

func identityOf(ctx context.Context) identity {
	var b strings.Builder
	for _, key := range identityKeys {
		for _, value := range metadata.ValueFromIncomingContext(ctx, key) {
			b.WriteString(key + "\x00" + value + "\x00")
		}
	}
	return identity(b.String())
}

// context is a context for calls in this identity's name.
func (id identity) context(ctx context.Context) context.Context {
	parts := strings.Split(string(id), "\x00")
	out := metadata.MD{}
	for i := 0; i+1 < len(parts); i += 2 {
		out.Append(parts[i], parts[i+1])
	}
	return metadata.NewOutgoingContext(ctx, out)
}

// wantsLeader reports whether a call is to end when there is no leader.
func (id identity) wantsLeader() bool { return strings.Contains(string(id), "hasleader\x00true") }
