package main

import (
	"os"
	"testing"
	"time"
)

func TestStatOfACommandWithSpacesAndParentheses(t *testing.T) {
	stat := "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 75 9 9 20 0 8 0 1 1 1\n"
	got, err := parseStat([]byte(stat))
	if err != nil || got != 3250*time.Millisecond {
		t.Errorf("parsed %v, %v; want 3.25s", got, err)
	}
}

func TestBadStatIsRefused(t *testing.T) {
	for _, stat := range []string{"", "42 kvd S 1 2 3", "42 (kvd) S 1 2 3", "42 (kvd) S 1 2 3 4 5 6 7 8 9 10 x 12 13"} {
		if got, err := parseStat([]byte(stat)); err == nil {
			t.Errorf("parsed %q as %v", stat, got)
		}
	}
}

func TestStatusIsReadInBytes(t *testing.T) {
	status := "Name:\tkvd\nVmHWM:\t    400 kB\nVmRSS:\t    300 kB\nRssAnon:\t     200 kB\nRssFile:\t     100 kB\n"
	want := memory{Resident: 300 << 10, Anon: 200 << 10, File: 100 << 10, Peak: 400 << 10}
	if got := parseStatus([]byte(status)); got != want {
		t.Errorf("parsed %+v, want %+v", got, want)
	}
}

func TestNumberAfterAnAbsentLabelIsZero(t *testing.T) {
	for _, text := range []string{"", "other: 5", "write_bytes:", "write_bytes: many"} {
		if got := numberAfter([]byte(text), "write_bytes:"); got != 0 {
			t.Errorf("found %d in %q", got, text)
		}
	}
}

func TestCPUClockAgreesWithStat(t *testing.T) {
	burnt := 0
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
		burnt++
	}
	clock, err := cpuClock(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	stat, err := parseStat(text)
	if err != nil {
		t.Fatal(err)
	}
	const ticks = 100 * time.Millisecond // stat rounds, and time passes between the two
	if difference := (stat - clock).Abs(); clock <= 0 || difference > ticks {
		t.Errorf("the clock says %v, stat says %v, after %d loops", clock, stat, burnt)
	}
}

func TestUsageOfAMissingProcessIsAnError(t *testing.T) {
	const never = 1 << 23 // above the largest pid_max, 1 << 22
	if u, err := usageOf(never); err == nil {
		t.Errorf("process %d has used %v", never, u)
	}
	if m, err := memoryOf(never); err == nil {
		t.Errorf("process %d holds %v", never, m)
	}
}
