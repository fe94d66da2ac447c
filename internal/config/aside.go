package config

import (
	"path/filepath"
	"strings"

	"kvd/internal/sd"
)

// LoadAside is Load for whoever looks at the configuration of a service without
// being it, as an administrator at a terminal does. What systemd gives the service
// alone is then as the packaged units have it: the data directory; and
// credentials, whose paths stay as they are written.
func LoadAside(args, environ []string, readFile func(string) ([]byte, error)) (*Config, error) {
	return load(args, environ, readFile, defaultHost, true)
}

// unitDataDir is the state directory of the packaged unit that reads a file:
// kvd.service or an instance of kvd@.service.
func unitDataDir(file string) (unit, dir string) {
	const configurations, states = "/etc/kvd", "/var/lib/kvd"
	name, ok := strings.CutSuffix(filepath.Base(file), ".toml")
	switch {
	case !ok || filepath.Dir(file) != configurations:
		return "", ""
	case file == DefaultFile:
		return "kvd.service", states
	}
	return "kvd@" + name + ".service", filepath.Join(states, name)
}

// credential is where a path is that may name a credential. To whoever is not the
// service a credential is not there.
func (l *loader) credential(option, path string) (string, error) {
	file, err := sd.CredentialPath(path, l.getenv)
	if !l.aside || l.getenv("CREDENTIALS_DIRECTORY") != "" {
		return file, err
	}
	if _, err := sd.CredentialPath(path, func(string) string { return "/" }); err != nil {
		return path, err
	}
	if file != path {
		l.config.warn("%s is %s, which is there for the service alone and has not been looked at", option, path)
	}
	return path, nil
}

// tokenCredentials resolves the keys in the value of auth-token.
func (l *loader) tokenCredentials(value string) (string, error) {
	parts := strings.Split(value, ",")
	for i, part := range parts {
		name, path, ok := strings.Cut(part, "=")
		if !ok || name != "pub-key" && name != "priv-key" {
			continue
		}
		file, err := l.credential("auth-token, "+name+",", path)
		if err != nil {
			return value, err
		}
		parts[i] = name + "=" + file
	}
	return strings.Join(parts, ","), nil
}
