package api

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"kvd/internal/auth"
	"kvd/internal/listen"
	"kvd/internal/state"
)

// Metadata that says who calls.
const (
	tokenKey         = "token"         // as etcd's clients send it
	authorizationKey = "authorization" // as HTTP has it
	bearer           = "Bearer "
	// gatewayKey marks what comes through the JSON gateway, whose connection has
	// a certificate of its own.
	gatewayKey = "grpcgateway-accept"
)

// caller is who makes a call. The zero value is somebody without a name.
type caller struct {
	name  string
	known bool
	// dated says that the name is good as of a revision of users and roles, and
	// no longer when they have changed. Others are good as of now.
	dated    bool
	revision uint64
}

// at is what the caller is taken for at a moment.
func (c caller) at(users *auth.View) auth.Caller {
	switch {
	case !c.known:
		return auth.Caller{}
	case c.dated:
		return auth.Caller{Name: c.name, Revision: c.revision}
	default:
		return auth.Caller{Name: c.name, Revision: users.Revision()}
	}
}

// callerKey is where a call's context has its caller. There is none while
// authentication is off.
type callerKey struct{}

func callerOf(ctx context.Context) caller {
	switch c := ctx.Value(callerKey{}).(type) {
	case caller:
		return c
	case *caller:
		return *c
	}
	return caller{}
}

// as returns a context that says who calls. One that is the call's trace is told.
func as(ctx context.Context, c caller) context.Context {
	if t, ok := ctx.(*trace); ok {
		t.caller = c
		return t
	}
	return context.WithValue(ctx, callerKey{}, c)
}

// identify finds out who calls: by token, else by the certificate. A token that
// is no good is an error, and not made up for by a certificate. While
// authentication is off nobody is asked.
func (a *API) identify(ctx context.Context) (caller, error) {
	if !a.member.View().Users.Enabled() {
		return caller{}, nil
	}
	if token, given := tokenOf(ctx); given {
		return a.verify(ctx, token)
	}
	if name := commonName(ctx); a.o.ClientCertAuth && name != "" && len(metadata.ValueFromIncomingContext(ctx, gatewayKey)) == 0 {
		return caller{name: name, known: true}, nil
	}
	return caller{}, nil
}

// tokenOf is the token of a call.
func tokenOf(ctx context.Context) (token string, given bool) {
	for _, key := range [...]string{tokenKey, authorizationKey} {
		if v := metadata.ValueFromIncomingContext(ctx, key); len(v) > 0 {
			return strings.TrimPrefix(v[0], bearer), true
		}
	}
	return "", false
}

// commonName is what a verified certificate of the client calls it; empty if
// there is none.
func commonName(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return ""
	}
	for _, chain := range info.State.VerifiedChains {
		if len(chain) > 0 {
			if name := chain[0].Subject.CommonName; utf8.ValidString(name) { // it goes into the log
				return name
			}
			return ""
		}
	}
	return ""
}

// verify finds out whom a token stands for.
func (a *API) verify(ctx context.Context, token string) (caller, error) {
	switch {
	case a.tokens.JWT != nil:
		if name, revision, err := a.tokens.JWT.Verify(token); err == nil {
			return caller{name: name, known: true, dated: true, revision: revision}, nil
		}
	case a.tokens.Simple != nil:
		name, ok := a.tokens.Simple.User(token)
		if !ok {
			name, ok = a.lookAgain(ctx, token)
		}
		if ok {
			return caller{name: name, known: true}, nil
		}
	}
	return caller{}, errInvalidToken
}

// lookAgain is for a token that another member may have given out just now: it
// makes sure that this one has heard of it.
func (a *API) lookAgain(ctx context.Context, token string) (name string, ok bool) {
	_, number, ok := strings.Cut(token, ".")
	if !ok {
		return "", false
	}
	// The number is that of the entry before the one that made the token.
	before, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return "", false
	}
	if a.member.Status().Applied <= before {
		if err := a.member.Barrier(ctx); err != nil || a.member.Status().Applied <= before {
			return "", false
		}
	}
	if name, ok = a.tokens.Simple.User(token); ok {
		return name, true
	}
	return a.proved(token)
}

// authorize checks what a rule asks of the caller, before anything is done for
// the call, and returns a context that says who that is. What depends on keys
// is checked where the keys are: by the view that answers or, in the log's
// order, by the machine.
func (r rule) authorize(ctx context.Context, a *API, request any, formed func() error) (context.Context, error) {
	need := r.needOf(request)
	if need == refused {
		return ctx, errPermissionDenied
	}
	users := a.member.View().Users
	if need == anyone || !users.Enabled() {
		return ctx, nil
	}
	if err := formed(); err != nil {
		return ctx, err
	}
	c, err := a.identify(ctx)
	if err != nil {
		return ctx, err
	}
	ctx = as(ctx, c) // whatever comes: the audit says whom it was denied
	if need != sound && !c.known {
		return ctx, wire(auth.ErrUserEmpty)
	}
	if need == root {
		if err := users.Admin(c.at(users)); err != nil {
			return ctx, wire(err)
		}
	}
	return ctx, nil
}

// permit reports why the caller of ctx may not have what a request asks for,
// as of v.
func permit(ctx context.Context, v *state.View, r *state.Request) error {
	if !v.Users.Enabled() {
		return nil
	}
	return v.Permit(callerOf(ctx).at(v.Users), r)
}

// handshake tells gRPC of the TLS that has ended before it got the connection.
type handshake struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (handshake) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if at, secure := listen.ConnectionState(conn); secure {
		return conn, tlsInfo(at), nil
	}
	return conn, nil, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (handshake) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("api: connections are accepted only")
}

// Info implements credentials.TransportCredentials.
func (handshake) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{} }

// Clone implements credentials.TransportCredentials.
func (handshake) Clone() credentials.TransportCredentials { return handshake{} }

// OverrideServerName implements credentials.TransportCredentials.
func (handshake) OverrideServerName(string) error { return nil }

func tlsInfo(at tls.ConnectionState) credentials.TLSInfo {
	return credentials.TLSInfo{
		State:          at,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}
}
