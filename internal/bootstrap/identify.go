package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Kind is what a data directory holds.
type Kind int

// The kinds of data directories.
const (
	Empty Kind = iota
	AMember
	Proxy
)

// Identify looks at what dir holds. A directory that does not exist is empty.
func Identify(dir string) (Kind, error) {
	isMember, err := isDir(filepath.Join(dir, "member"))
	if err != nil {
		return Empty, err
	}
	isProxy, err := isDir(filepath.Join(dir, "proxy"))
	if err != nil {
		return Empty, err
	}
	switch {
	case isMember && isProxy:
		return Empty, fmt.Errorf("invalid data directory %s: both member and proxy directories exist; move the one that does not belong there away", dir)
	case isMember:
		return AMember, nil
	case isProxy:
		return Proxy, nil
	}
	return Empty, nil
}

func isDir(path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look into the data directory: %w", err)
	}
	if !info.IsDir() {
		return false, fmt.Errorf("look into the data directory: %s is not a directory", path)
	}
	return true, nil
}
