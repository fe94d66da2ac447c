package api

import (
	"context"
	"encoding/base64"
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
		wanted.SimpleToken = credential.RandomPrefix()
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

// hashed is what is kept of a password, as the log has it. The password itself
// never gets there.
func (a *API) hashed(ctx context.Context, password string) (string, error) {
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
		if r.HashedPassword, err = a.hashed(ctx, r.Password); err != nil {
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
		if r.HashedPassword, err = a.hashed(ctx, r.Password); err != nil {
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
