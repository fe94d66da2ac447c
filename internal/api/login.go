package api

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/auth"
	"kvd/internal/credential"
	"kvd/internal/state"
)

// Tokens is what makes and reads tokens: one of the two, or neither, so that
// nobody gets one.
type Tokens struct {
	Simple *credential.Simple
	JWT    *credential.JWT
}

// Changed hears of the tokens that the log has made or voided.
func (t Tokens) Changed(changes []state.TokenChange) {
	if t.Simple == nil {
		return
	}
	for _, c := range changes {
		switch {
		case c.User == "":
			t.Simple.Clear()
		case c.Token == "":
			t.Simple.Forget(c.User)
		default:
			t.Simple.Add(c.Token, c.User)
		}
	}
}

// authenticate checks a password and gets a token through the log. Whoever the
// password was checked of may have changed meanwhile: then it is checked again.
func (a *API) authenticate(ctx context.Context, r *pb.AuthenticateRequest, _ []byte) (any, error) {
	if err := a.member.Barrier(ctx); err != nil {
		return nil, err
	}
	for {
		v := a.member.View()
		checked := v.Users.Revision()
		if err := a.checkPassword(ctx, v.Users, r); err != nil {
			return nil, err
		}
		reply, err := a.makeToken(ctx, r.Name)
		if err != nil {
			return nil, err
		}
		if reply.AuthRevision == checked {
			return encode(reply, a.header(a.member.View())), nil
		}
		a.log.Debug("users have changed while a password was checked; it is checked again", "user", r.Name)
	}
}

func (a *API) checkPassword(ctx context.Context, users *auth.View, r *pb.AuthenticateRequest) error {
	if !users.Enabled() {
		return auth.ErrNotEnabled
	}
	kept, err := users.Password(r.Name)
	if err == nil || errors.Is(err, auth.ErrFailed) { // who does not exist is not told from who mistyped
		err = a.passwords.Check(ctx, r.Name, kept, r.Password)
	}
	switch {
	case errors.Is(err, credential.ErrPassword):
		err = auth.ErrFailed
		fallthrough
	case errors.Is(err, auth.ErrNoPassword):
		a.log.Warn("somebody could not log in", "user", r.Name, "error", err)
	}
	return err
}

// makeToken has a token made for a user.
func (a *API) makeToken(ctx context.Context, name string) (*state.TokenReply, error) {
	wanted := &pb.InternalAuthenticateRequest{Name: name}
	if a.tokens.Simple != nil {
		a.prepareToken(wanted)
	}
	result, err := a.member.Propose(ctx, &state.Request{Authenticate: wanted}, nil)
	if err != nil {
		return nil, err
	}
	reply := *result.(*state.TokenReply)
	switch {
	case a.tokens.JWT != nil:
		reply.Token, err = a.tokens.JWT.Sign(name, reply.AuthRevision, time.Now())
	case a.tokens.Simple == nil:
		err = auth.ErrFailed
	}
	return &reply, err
}

// keyLife is how long a key makes tokens. Its tokens outlive it, then it is
// worth nothing, also to who got it out of an old backup.
const keyLife = 12 * time.Hour

// prepareToken signs the token that is going to be made, so that every member
// of kvd takes it, also after a restart. The key goes with it, for members that
// have none: they came by it through a snapshot of etcd's, or are the first.
func (a *API) prepareToken(r *pb.InternalAuthenticateRequest) {
	now := time.Now()
	users := a.member.View().Users
	var key auth.TokenKey
	if keys := users.TokenKeys(); len(keys) > 0 && now.Sub(keys[0].Made) < keyLife {
		key = keys[0]
	} else {
		key.Made = now.Truncate(time.Second)
		rand.Read(key.Secret[:])
	}
	kept, err := users.Password(r.Name)
	if err != nil {
		return // it will be refused
	}
	r.SimpleToken = credential.SignedPrefix(key.Secret[:], a.tokenScope(kept), r.Name, now)
	state.CarryKey(r, key)
}

// tokenScope makes a token one of this cluster's, and void when its user gets
// another password.
func (a *API) tokenScope(kept []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(a.cluster)), kept...)
}

// proved finds out whom a token stands for that this member has not heard of, or
// has forgotten. It is not remembered either: what may void it is looked at each
// time.
func (a *API) proved(token string) (name string, ok bool) {
	c, ok := credential.ReadClaim(token)
	if !ok || !a.tokens.Simple.Fresh(c.Made) {
		return "", false
	}
	users := a.member.View().Users
	kept, err := users.Password(c.User)
	if err != nil || !users.Enabled() {
		return "", false
	}
	scope := a.tokenScope(kept)
	for _, key := range users.TokenKeys() {
		if time.Since(key.Made) < keyLife+a.tokens.Simple.TTL() && c.ProvedBy(key.Secret[:], scope) {
			return c.User, true
		}
	}
	return "", false
}

// shortPassword is what passwords should not be shorter than, in bytes.
const shortPassword = 8

// hashed is what is kept of a password, as the log has it. The password itself
// never gets there.
func (a *API) hashed(ctx context.Context, user, password string) (string, error) {
	if len(password) < shortPassword {
		a.log.Warn("a short password is easily guessed", "user", user, "shorter than", shortPassword)
	}
	kept, err := a.passwords.Hash(ctx, password)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(kept), nil
}

func (a *API) userAdd(ctx context.Context, r *pb.AuthUserAddRequest, _ []byte) (any, error) {
	if err := checkName(r.Name); err != nil {
		return nil, err
	}
	if !r.Options.GetNoPassword() {
		var err error
		if r.HashedPassword, err = a.hashed(ctx, r.Name, r.Password); err != nil {
			return nil, err
		}
	}
	r.Password = ""
	return a.propose(ctx, &state.Request{AuthUserAdd: r}, nil)
}

// userChangePassword leaves a user without a password, if none is given, who
// then cannot log in by one.
func (a *API) userChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest, _ []byte) (any, error) {
	if r.Password != "" {
		var err error
		if r.HashedPassword, err = a.hashed(ctx, r.Name, r.Password); err != nil {
			return nil, err
		}
		r.Password = ""
	}
	return a.propose(ctx, &state.Request{AuthUserChangePassword: r}, nil)
}

// checkName refuses a name that no member of etcd could store: it would end all
// of them.
func checkName(name string) error {
	if len(name) > auth.MaxName {
		return auth.ErrNameTooLong
	}
	return nil
}
