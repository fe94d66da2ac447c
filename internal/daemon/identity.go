package daemon

import (
	"kvd/internal/api"
	"kvd/internal/credential"
)

// newCredentials makes what finds out who calls. The keys of tokens are read now:
// a member that cannot make the tokens that it was told to make does not start.
func (m *running) newCredentials() (err error) {
	c := m.config.Auth
	m.passwords = credential.NewPasswords(c.BcryptCost, nil)
	spec, err := credential.ParseSpec(c.Token)
	if err != nil {
		return &ConfigError{err}
	}
	switch spec.Kind {
	case credential.KindSimple:
		m.tokens = api.Tokens{Simple: credential.NewSimple(c.TokenTTL, nil)}
	case credential.KindJWT:
		signer, err := credential.NewJWT(spec.JWT, nil)
		if err != nil {
			return &ConfigError{err}
		}
		if len(spec.JWT.Unknown) > 0 {
			m.log.Warn("unknown JWT options", "keys", spec.JWT.Unknown)
		}
		m.tokens = api.Tokens{JWT: signer}
	}
	return nil
}
