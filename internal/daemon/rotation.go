package daemon

import (
	"fmt"
	"io"
	"os"

	"gopkg.in/natefinch/lumberjack.v2"

	"kvd/internal/config"
)

// rotating is the file itself, or, where rotation is asked for, what replaces
// it with a new one when it is full. etcd uses the same library, so the names
// of old files are the same.
func rotating(file *os.File, c config.Log) (io.WriteCloser, error) {
	if !c.Rotation {
		return file, nil
	}
	plan, err := c.RotationPlan()
	if err != nil {
		return nil, fmt.Errorf("log-rotation-config-json: %w", err)
	}
	if err := file.Close(); err != nil { // it can be opened, and that was to be known
		return nil, fmt.Errorf("log-outputs: %w", err)
	}
	return &lumberjack.Logger{
		Filename: file.Name(), MaxSize: plan.MaxSize, MaxAge: plan.MaxAge, MaxBackups: plan.MaxBackups,
		LocalTime: plan.LocalTime, Compress: plan.Compress,
	}, nil
}
