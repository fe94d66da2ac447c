package main

import (
	"os"
	"testing"

	"github.com/spf13/cobra"
)

// asKvctl makes the test binary be kvctl itself, so that tests can run it as
// a process without building it.
const asKvctl = "KVCTL_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asKvctl) != "" {
		os.Unsetenv(asKvctl)
		main()
	}
	cobra.EnablePrefixMatching = true // as main does
	os.Exit(m.Run())
}
