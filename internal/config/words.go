package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// The log levels above slog's own, which etcd has too.
const (
	LevelPanic = slog.LevelError + 4
	LevelFatal = slog.LevelError + 8
)

// level is a log level by etcd's name.
type level struct{ to *slog.Level }

func (l level) set(s string) error {
	switch strings.ToLower(s) {
	case "debug":
		*l.to = slog.LevelDebug
	case "info", "":
		*l.to = slog.LevelInfo
	case "warn", "warning":
		*l.to = slog.LevelWarn
	case "error":
		*l.to = slog.LevelError
	case "dpanic", "panic":
		*l.to = LevelPanic
	case "fatal":
		*l.to = LevelFatal
	default:
		return fmt.Errorf("unrecognized level: %q; want %s", s, l.want())
	}
	return nil
}

func (l level) text() string {
	switch *l.to {
	case LevelPanic:
		return "panic"
	case LevelFatal:
		return "fatal"
	}
	return strings.ToLower(l.to.String())
}
func (level) want() string              { return "debug, info, warn, error, panic or fatal" }
func (level) toml(v any) (string, bool) { return tomlString(v) }

// tlsVersion is a version of TLS by name; "" is 0, Go's choice.
type tlsVersion struct{ to *uint16 }

func (t tlsVersion) set(s string) error {
	switch s {
	case "":
		*t.to = 0
	case "TLS1.2":
		*t.to = tls.VersionTLS12
	case "TLS1.3":
		*t.to = tls.VersionTLS13
	default:
		return fmt.Errorf("unexpected TLS version %q (must be one of: TLS1.2, TLS1.3)", s)
	}
	return nil
}

func (t tlsVersion) text() string {
	switch *t.to {
	case tls.VersionTLS12:
		return "TLS1.2"
	case tls.VersionTLS13:
		return "TLS1.3"
	}
	return ""
}
func (tlsVersion) want() string              { return "TLS1.2 or TLS1.3" }
func (tlsVersion) toml(v any) (string, bool) { return tomlString(v) }

// ciphers is a comma list of Go's names of cipher suites.
type ciphers struct{ to *[]uint16 }

// suites are all that Go knows, the insecure ones last.
func suites() []*tls.CipherSuite { return append(tls.CipherSuites(), tls.InsecureCipherSuites()...) }

// suiteName is Go's name for a name that etcd also takes.
func suiteName(name string) string {
	switch name {
	case "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305":
		return name + "_SHA256"
	}
	return name
}

func (c ciphers) set(s string) error {
	*c.to = nil
	if s == "" {
		return nil
	}
	for name := range strings.SplitSeq(s, ",") {
		at := slices.IndexFunc(suites(), func(s *tls.CipherSuite) bool { return s.Name == suiteName(name) })
		if at < 0 {
			return fmt.Errorf("unexpected TLS cipher suite %q", name)
		}
		*c.to = append(*c.to, suites()[at].ID)
	}
	return nil
}

func (c ciphers) text() string {
	names := make([]string, len(*c.to))
	for i, id := range *c.to {
		names[i] = tls.CipherSuiteName(id)
	}
	return strings.Join(names, ",")
}
func (ciphers) want() string              { return "list of cipher suites" }
func (ciphers) toml(v any) (string, bool) { return tomlList(v) }

// deprecation is v2-deprecation: checked, then forgotten, because etcd
// enforces its default whatever is written.
type deprecation struct{ to *string }

func (d deprecation) set(s string) error {
	for word := range strings.SplitSeq(s, ",") {
		switch word {
		case "write-only", "write-only-skip-check", "write-only-drop-data", "gone":
		case "not-yet":
			return errors.New(`invalid value "not-yet"; that phase is over`)
		default:
			return fmt.Errorf("invalid value %q", word)
		}
	}
	*d.to = "write-only"
	return nil
}
func (d deprecation) text() string            { return *d.to }
func (deprecation) want() string              { return "word" }
func (deprecation) toml(v any) (string, bool) { return tomlList(v) }
