package sd

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// credentialPrefix marks a path that names a credential instead of a file.
const credentialPrefix = "credential:"

// ErrNoCredentials means that the unit passes no credentials at all.
var ErrNoCredentials = errors.New("CREDENTIALS_DIRECTORY is not set; " +
	"pass the credential with LoadCredential= in the unit")

// CredentialPath resolves "credential:NAME" to the file in which systemd put
// that credential; any other path is returned as it is. The file itself is
// not looked at. getenv is os.Getenv, or a test's.
func CredentialPath(path string, getenv func(string) string) (string, error) {
	name, ok := strings.CutPrefix(path, credentialPrefix)
	if !ok {
		return path, nil
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("credential %q: not a name; it must be one path component", name)
	}
	dir := getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", fmt.Errorf("credential %q: %w", name, ErrNoCredentials)
	}
	return filepath.Join(dir, name), nil
}

// Directory is a kind of directory that a unit may ask systemd to prepare.
type Directory string

// The directories of a unit, named by the variable that carries their path.
const (
	State         Directory = "STATE_DIRECTORY"
	Runtime       Directory = "RUNTIME_DIRECTORY"
	Cache         Directory = "CACHE_DIRECTORY"
	Logs          Directory = "LOGS_DIRECTORY"
	Configuration Directory = "CONFIGURATION_DIRECTORY"
)

// Path returns the first path that systemd prepared, or "" for none.
func (d Directory) Path(getenv func(string) string) string {
	first, _, _ := strings.Cut(getenv(string(d)), ":")
	return first
}
