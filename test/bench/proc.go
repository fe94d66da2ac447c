package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what a process has consumed since it began, all of its threads
// together, also those that have ended.
type usage struct {
	CPU        time.Duration // user and system
	WriteBytes int64         // sent to the disk, as the kernel accounts it
}

// usageOf reads the usage of a process that still exists.
func usageOf(pid int) (usage, error) {
	cpu, err := cpuClock(pid)
	if err != nil {
		return usage{}, fmt.Errorf("cpu time of process %d: %w", pid, err)
	}
	// /proc/PID/io may be forbidden; the figure is then missing, which is no
	// reason to lose the others.
	io, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	return usage{CPU: cpu, WriteBytes: numberAfter(io, "write_bytes:")}, nil
}

// cpuClock reads the kernel's CPU clock of a process: nanoseconds, where
// /proc/PID/stat counts in ticks of 10 ms.
func cpuClock(pid int) (time.Duration, error) {
	const schedulerClock = 2 // CPUCLOCK_SCHED, the sum of all threads' run time
	id := ^int32(pid)<<3 | schedulerClock
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err == nil {
		return time.Duration(ts.Nano()), nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(stat)
}

// parseStat takes utime and stime out of a line of /proc/PID/stat.
func parseStat(stat []byte) (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux we meet
	// The command's name stands in parentheses and may hold anything.
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, fmt.Errorf("stat line without a command: %q", stat)
	}
	fields := bytes.Fields(stat[end+1:]) // the first is field 3, the state
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat line with %d fields after the command", len(fields))
	}
	user, err := strconv.ParseInt(string(fields[11]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("utime: %w", err)
	}
	system, err := strconv.ParseInt(string(fields[12]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stime: %w", err)
	}
	return time.Duration(user+system) * tick, nil
}

// memory is a process's resident memory in bytes.
type memory struct {
	Resident int64 // everything, VmRSS
	Anon     int64 // its own: heap, stacks
	File     int64 // mapped files, such as the store's
	Peak     int64 // the most that Resident has been
}

// memoryOf reads the memory of a process that still exists.
func memoryOf(pid int) (memory, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	m := parseStatus(status)
	if m.Resident == 0 {
		return memory{}, fmt.Errorf("no VmRSS in the status of process %d", pid)
	}
	return m, nil
}

// parseStatus takes the memory out of /proc/PID/status, which counts in KiB.
func parseStatus(status []byte) memory {
	const kib = 1024
	return memory{
		Resident: numberAfter(status, "VmRSS:") * kib,
		Anon:     numberAfter(status, "RssAnon:") * kib,
		File:     numberAfter(status, "RssFile:") * kib,
		Peak:     numberAfter(status, "VmHWM:") * kib,
	}
}

// numberAfter finds the line that begins with label and returns the number
// behind it, or 0.
func numberAfter(text []byte, label string) int64 {
	for line := range bytes.Lines(text) {
		rest, found := bytes.CutPrefix(line, []byte(label))
		if !found {
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			return 0
		}
		n, err := strconv.ParseInt(string(fields[0]), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return 0
}
