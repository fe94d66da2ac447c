package main

import (
	"fmt"
	"io"
	"os"
	"runtime"

	"kvd/internal/config"
)

// apiVersion is the etcd version whose API, files and flags kvd has.
const apiVersion = "3.7.3"

func goVersion() string { return runtime.Version() }
func platform() string  { return runtime.GOOS + "/" + runtime.GOARCH }

const configUsage = `usage:
  kvd config check [flags]      says what is wrong with the configuration; status 78 if anything is
  kvd config explain [flags]    shows every effective value and where it came from

The flags are those of the daemon; see kvd --help.
`

func runConfig(args []string, out, errs io.Writer) int {
	show := map[string]func([]string, []string, func(string) ([]byte, error)) (string, int){
		"check":   config.Check,
		"explain": config.Explain,
	}
	if len(args) > 0 && (args[0] == "help" || args[0] == "--help" || args[0] == "-h") {
		fmt.Fprint(out, configUsage)
		return 0
	}
	if len(args) == 0 || show[args[0]] == nil {
		fmt.Fprint(errs, configUsage)
		return config.ExitStatus
	}
	text, status := show[args[0]](args[1:], os.Environ(), os.ReadFile)
	fmt.Fprint(out, text)
	return status
}
