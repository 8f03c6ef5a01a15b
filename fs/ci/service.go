package ci

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

// MaxServices is how many services a run may have.
const MaxServices = 16

var service = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// IsService reports whether a service may have the name: 1 to 64 letters, digits,
// _ and -. A name with a dot, as files have it, is none.
func IsService(name string) bool { return service.MatchString(name) }

// ServiceLog returns the path in a run of the log of a service.
func ServiceLog(name string) string { return "service/" + name + "/log" }

// Services returns the services whose logs a manifest names, sorted. It is an error
// if they are more than MaxServices.
func Services(sums []Sum) ([]string, error) {
	var names []string
	for _, s := range sums {
		name := strings.TrimSuffix(strings.TrimPrefix(s.Name, "service/"), "/log")
		if s.Name == ServiceLog(name) && IsService(name) {
			names = append(names, name)
		}
	}
	return checkServices(names)
}

// ReadServices returns the services of the run in root, sorted. It looks at names
// alone, and leaves out those that no service may have.
func ReadServices(root *os.Root) ([]string, error) {
	d, err := root.Open("service")
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	return checkServices(slices.DeleteFunc(names, func(name string) bool { return !IsService(name) }))
}

func checkServices(names []string) ([]string, error) {
	if len(names) > MaxServices {
		return nil, fmt.Errorf("it has %d services, and a run may have %d", len(names), MaxServices)
	}
	slices.Sort(names)
	return names, nil
}
