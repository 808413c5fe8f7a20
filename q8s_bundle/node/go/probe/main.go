// Command probe shows from inside a pod which machine it runs on, and tries the pod network.
//
//	probe info           print the machine's architecture and CPU model
//	probe serve :8080    print the same, and serve it over HTTP
//	probe get URL        fetch a URL within ten seconds and print its body
package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const timeout = 10 * time.Second

func main() {
	// Process 1 ignores a signal that it has not asked for, and a pod would take its whole grace period to end.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "info":
		fmt.Println(info())
		return nil
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 2 && args[0] == "get":
		return get(args[1])
	}
	return fmt.Errorf("usage: probe info | probe serve ADDRESS | probe get URL")
}

func serve(address string) error {
	line := info()
	fmt.Println(line)
	server := http.Server{
		Addr:              address,
		ReadHeaderTimeout: timeout,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, line)
		}),
	}
	return server.ListenAndServe()
}

func get(url string) error {
	client := http.Client{Timeout: timeout}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	return nil
}

// info is one line: architecture as in `uname -m`, CPU model, and the host's name.
func info() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s %s on %s", machine(), model(), host)
}

func machine() string {
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		return "unknown"
	}
	var text strings.Builder
	for _, c := range name.Machine {
		if c == 0 {
			break
		}
		text.WriteByte(byte(c))
	}
	return text.String()
}

// model is the first processor's name in /proc/cpuinfo: x86 has a "model name", Arm only numbers.
func model() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "(CPU unknown)"
	}
	defer file.Close()
	fields := map[string]string{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20) // an x86 processor's flags are a long line
	for lines.Scan() {
		name, value, found := strings.Cut(lines.Text(), ":")
		if name = strings.TrimSpace(name); found && fields[name] == "" {
			fields[name] = strings.TrimSpace(value)
		}
	}
	if name := fields["model name"]; name != "" {
		return name
	}
	return fmt.Sprintf("CPU implementer %s part %s", fields["CPU implementer"], fields["CPU part"])
}
