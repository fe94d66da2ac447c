package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// etcd's own load generator, where its binary is given. It is built on etcd's
// client, costs much more CPU than ours, and so leaves less to the server.

func toolPut(ctx context.Context, st *stage) (metrics, error) {
	return tool(ctx, st, "toolput", "put",
		"--key-size=8", "--sequential-keys=false", fmt.Sprintf("--key-space-size=%d", small.n), fmt.Sprintf("--val-size=%d", small.bytes))
}

func toolRange(ctx context.Context, st *stage) (metrics, error) {
	return tool(ctx, st, "toolrange", "range", string(small.key(0)))
}

// tool runs one command of the tool for a fixed number of operations.
func tool(ctx context.Context, st *stage, name string, args ...string) (metrics, error) {
	const perSecond = 5000 // operations in all for each second of the stage's duration
	total := int64(perSecond * st.duration.Seconds())
	args = append(args, "--endpoints="+st.process.addr, "--clients=64", "--conns=8", fmt.Sprintf("--total=%d", total))
	var output bytes.Buffer
	m, err := st.window(name, func() (tally, error) {
		at := time.Now()
		cmd := exec.CommandContext(ctx, st.tool, args...)
		cmd.Stdout = &output
		var complaints bytes.Buffer
		cmd.Stderr = &complaints
		if err := cmd.Run(); err != nil {
			return tally{}, fmt.Errorf("%s: %w: %s", cmd, err, complaints.Bytes())
		}
		return tally{ops: total, wall: time.Since(at)}, nil
	})
	if err != nil {
		return nil, err
	}
	delete(m, generatorCPU) // ours did nothing
	reported, err := parseTool(output.String())
	for name, v := range reported {
		m[name] = v
	}
	return m, err
}

// parseTool takes the figures out of the tool's summary.
func parseTool(summary string) (metrics, error) {
	m := metrics{}
	for line := range strings.Lines(summary) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "Requests/sec:":
			v, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				return nil, err
			}
			m[opsPerSecond] = v
		case len(fields) == 4 && fields[1] == "in" && (fields[0] == "50%" || fields[0] == "99%"):
			v, err := strconv.ParseFloat(fields[2], 64)
			if err != nil {
				return nil, err
			}
			name := latencyMedian
			if fields[0] == "99%" {
				name = latencyTail
			}
			m[name] = v * 1e6
		case strings.HasPrefix(line, "Error distribution"):
			return nil, fmt.Errorf("the tool met errors: %s", summary)
		}
	}
	if m[opsPerSecond] == 0 {
		return nil, fmt.Errorf("no rate in the tool's summary: %q", summary)
	}
	return m, nil
}
