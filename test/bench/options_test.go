package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestQuickYieldsToWhatIsGiven(t *testing.T) {
	o, err := parseOptions([]string{"-limit", "-quick", "-rounds", "5"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.rounds != 5 || o.duration != 1500*time.Millisecond || o.fillKeys != 200_000 || o.kills != 3 || o.learnerMB != 128 || o.defragMB != 128 {
		t.Errorf("options are %+v", o)
	}
}

func TestQuickLearnerYieldsToWhatIsGiven(t *testing.T) {
	o, err := parseOptions([]string{"-limit", "-quick", "-kills", "7", "-learner-mb", "256", "-only", "learner,failover"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.kills != 7 || o.learnerMB != 256 || o.wants("put3") || !o.wants("learner") {
		t.Errorf("options are %+v", o)
	}
}

func TestAllFaultsOfTheCommandLineAreNamed(t *testing.T) {
	_, err := parseOptions([]string{"-only", "put,pit", "-rounds", "0", "rest"}, io.Discard)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`no workload "pit"`, "-rounds 1", `"rest"`, "nothing to measure"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

func TestOnlyChoosesWorkloads(t *testing.T) {
	o, err := parseOptions([]string{"-limit", "-only", "put,restart"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"put": true, "restart": true, "get": false} {
		if o.wants(name) != want {
			t.Errorf("wants(%s) is %t", name, !want)
		}
	}
}
