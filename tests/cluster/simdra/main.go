// simdra is a DRA driver for GPUs that do not exist. It stands where NVIDIA's driver would stand on
// a node: it publishes devices whose memory can be shared, and what the scheduler granted arrives
// in the containers as environment variables, by CDI. Each device says of itself that it is
// simulated.
//
// What it publishes by default has the policy of NVIDIA's driver (memory from 1 MiB on, in steps of
// 1 MiB, all of it for who names no amount). Other drivers' shapes are arguments.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/utils/ptr"
)

const (
	driverName = "gpu.nvidia.com"
	cdiKind    = "nvidia.com/gpu"
	memory     = resourceapi.QualifiedName("memory")
	profile    = "1g.10gb"
)

// gpus is what one node has: devices of one model.
type gpus struct {
	node   string
	model  string
	count  int
	memory resource.Quantity
	// minimum is the smallest amount of memory that is given out, and the step to the next.
	minimum resource.Quantity
	// cores is a second capacity, in which claims that do not name it take all; 0: there is none.
	cores int64
	// tainted is the name of a device that nothing new may be put on.
	tainted string
	// partitions is how many MIG instances stand beside each GPU and use the same counters. The
	// GPUs are not shared then, and the instances have no uuid before they are made.
	partitions int
}

func (g gpus) name(index int) string { return fmt.Sprintf("gpu-%d", index) }

// uuid is made from the names alone, so that a device keeps it over a restart of the driver.
func (g gpus) uuid(device string) string {
	sum := sha256.Sum256([]byte(g.node + "/" + device))
	return fmt.Sprintf("GPU-%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func (g gpus) devices() []resourceapi.Device {
	var devices []resourceapi.Device
	for index := range g.count {
		name := g.name(index)
		device := resourceapi.Device{
			Name:       name,
			Attributes: g.attributes("gpu"),
			Capacity: map[resourceapi.QualifiedName]resourceapi.DeviceCapacity{
				memory: {Value: g.memory},
			},
		}
		device.Attributes["uuid"] = resourceapi.DeviceAttribute{StringValue: ptr.To(g.uuid(name))}
		if name == g.tainted {
			device.Taints = []resourceapi.DeviceTaint{{
				Key: "gpu.nvidia.com/xid", Value: "79", Effect: resourceapi.DeviceTaintEffectNoSchedule,
			}}
		}
		if g.partitions > 0 {
			device.ConsumesCounters = g.uses(name, g.partitions)
			devices = append(devices, device)
			devices = append(devices, g.instances(name)...)
			continue
		}
		device.AllowMultipleAllocations = ptr.To(true)
		device.Capacity[memory] = given(g.memory, g.minimum, g.minimum)
		if g.cores > 0 {
			cores := *resource.NewQuantity(g.cores, resource.DecimalSI)
			one := *resource.NewQuantity(1, resource.DecimalSI)
			device.Capacity["cores"] = given(cores, *resource.NewQuantity(0, resource.DecimalSI), one)
		}
		devices = append(devices, device)
	}
	return devices
}

// given is a capacity with a policy: all of it is what a claim takes that does not name it.
func given(all, minimum, step resource.Quantity) resourceapi.DeviceCapacity {
	return resourceapi.DeviceCapacity{
		Value: all,
		RequestPolicy: &resourceapi.CapacityRequestPolicy{
			Default: &all,
			ValidRange: &resourceapi.CapacityRequestPolicyRange{
				Min: &minimum, Max: &all, Step: &step,
			},
		},
	}
}

func (g gpus) attributes(
	kind string,
) map[resourceapi.QualifiedName]resourceapi.DeviceAttribute {
	return map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{
		"productName": {StringValue: &g.model},
		"type":        {StringValue: &kind},
		"simulated":   {BoolValue: ptr.To(true)},
	}
}

// instances are the parts that a GPU can be cut into.
func (g gpus) instances(parent string) []resourceapi.Device {
	part := *resource.NewQuantity(g.memory.Value()/int64(g.partitions), resource.BinarySI)
	var devices []resourceapi.Device
	for index := range g.partitions {
		device := resourceapi.Device{
			Name:       fmt.Sprintf("%s-mig-%d", parent, index),
			Attributes: g.attributes("mig"),
			Capacity: map[resourceapi.QualifiedName]resourceapi.DeviceCapacity{
				memory: {Value: part},
			},
			ConsumesCounters: g.uses(parent, 1),
		}
		device.Attributes["profile"] = resourceapi.DeviceAttribute{StringValue: ptr.To(profile)}
		devices = append(devices, device)
	}
	return devices
}

func (g gpus) uses(parent string, number int) []resourceapi.DeviceCounterConsumption {
	return []resourceapi.DeviceCounterConsumption{{
		CounterSet: parent, Counters: slices(number),
	}}
}

func slices(number int) map[string]resourceapi.Counter {
	return map[string]resourceapi.Counter{
		"slices": {Value: *resource.NewQuantity(int64(number), resource.DecimalSI)},
	}
}

// published is what goes into the pool: counters have a slice of their own.
func (g gpus) published() []resourceslice.Slice {
	found := []resourceslice.Slice{{Devices: g.devices()}}
	if g.partitions > 0 {
		var counters []resourceapi.CounterSet
		for index := range g.count {
			counters = append(counters, resourceapi.CounterSet{
				Name: g.name(index), Counters: slices(g.partitions),
			})
		}
		found = append(found, resourceslice.Slice{SharedCounters: counters})
	}
	return found
}

// driver answers the kubelet. All that it keeps are CDI files, one for each granted device.
type driver struct {
	gpus gpus
	cdi  string
}

func (d driver) PrepareResourceClaims(
	_ context.Context, claims []*resourceapi.ResourceClaim,
) (map[types.UID]kubeletplugin.PrepareResult, error) {
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		devices, err := d.prepare(claim)
		results[claim.UID] = kubeletplugin.PrepareResult{Devices: devices, Err: err}
	}
	return results, nil
}

func (d driver) prepare(claim *resourceapi.ResourceClaim) ([]kubeletplugin.Device, error) {
	if claim.Status.Allocation == nil {
		return nil, fmt.Errorf("claim %s/%s is not allocated", claim.Namespace, claim.Name)
	}
	var devices []kubeletplugin.Device
	for index, granted := range claim.Status.Allocation.Devices.Results {
		if granted.Driver != driverName {
			continue
		}
		// A claim with adminAccess is not accounted, whatever it names: it sees the whole device.
		// So do all others with NVIDIA's driver, which keeps no limit; here they are told theirs.
		bytes := d.gpus.memory.Value()
		consumed, found := granted.ConsumedCapacity[memory]
		if found && !ptr.Deref(granted.AdminAccess, false) {
			bytes = consumed.Value()
		}
		name := fmt.Sprintf("%s-%d", claim.UID, index)
		err := d.writeSpec(name, []string{
			"GPU_UUID=" + d.gpus.uuid(granted.Device),
			fmt.Sprintf("GPU_MEMORY_BYTES=%d", bytes),
		})
		if err != nil {
			return nil, err
		}
		devices = append(devices, kubeletplugin.Device{
			Requests:     []string{granted.Request},
			PoolName:     granted.Pool,
			DeviceName:   granted.Device,
			ShareID:      granted.ShareID,
			CDIDeviceIDs: []string{cdiKind + "=" + name},
		})
	}
	return devices, nil
}

func (d driver) specPath(name string) string {
	return filepath.Join(d.cdi, "simdra-"+name+".json")
}

// writeSpec moves the file into place: containerd reads the folder whenever it changes.
func (d driver) writeSpec(name string, env []string) error {
	spec, err := json.Marshal(map[string]any{
		"cdiVersion": "0.6.0",
		"kind":       cdiKind,
		"devices": []any{map[string]any{
			"name":           name,
			"containerEdits": map[string]any{"env": env},
		}},
	})
	if err != nil {
		return err
	}
	path := d.specPath(name)
	if err := os.WriteFile(path+".new", spec, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (d driver) UnprepareResourceClaims(
	_ context.Context, claims []kubeletplugin.NamespacedObject,
) (map[types.UID]error, error) {
	results := map[types.UID]error{}
	for _, claim := range claims {
		results[claim.UID] = nil
		paths, err := filepath.Glob(d.specPath(string(claim.UID) + "-*"))
		if err != nil {
			results[claim.UID] = err
		}
		for _, path := range paths {
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				results[claim.UID] = err
			}
		}
	}
	return results, nil
}

func (d driver) HandleError(_ context.Context, err error, what string) {
	log.Printf("%s: %v", what, err)
}

// WatchHealthStatus is never called: these devices do not fail, and report no health.
func (d driver) WatchHealthStatus(
	ctx context.Context, _ chan<- kubeletplugin.DeviceHealthReport,
) error {
	<-ctx.Done()
	return nil
}

// registered waits until the kubelet has accepted the driver: before, pods would fail, and be
// tried again only after a long while.
func registered(ctx context.Context, helper *kubeletplugin.Helper) error {
	for {
		if status := helper.RegistrationStatus(); status != nil {
			if !status.PluginRegistered {
				return fmt.Errorf("the kubelet refused the driver: %s", status.Error)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// told waits until the API server has the devices as they are: publishing goes on in the background,
// and after a restart with other arguments the old ones are there meanwhile.
func told(ctx context.Context, client kubernetes.Interface, g gpus) error {
	wanted, err := json.Marshal(shapes(g.devices()))
	if err != nil {
		return err
	}
	of := metav1.ListOptions{FieldSelector: "spec.driver=" + driverName + ",spec.nodeName=" + g.node}
	for {
		found, err := client.ResourceV1().ResourceSlices().List(ctx, of)
		if err != nil {
			return err
		}
		var devices []resourceapi.Device
		for _, slice := range found.Items {
			devices = append(devices, slice.Spec.Devices...)
		}
		if is, err := json.Marshal(shapes(devices)); err == nil && string(is) == string(wanted) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// shapes is what the arguments decide of devices, by name.
func shapes(devices []resourceapi.Device) map[string]any {
	found := map[string]any{}
	for _, device := range devices {
		found[device.Name] = []any{device.Capacity, len(device.Taints)}
	}
	return found
}

func run(ctx context.Context, kubeconfig, kubelet, ready string, d driver) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	data := filepath.Join(kubelet, "plugins", driverName)
	for _, folder := range []string{d.cdi, data} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	helper, err := kubeletplugin.Start(ctx, d,
		kubeletplugin.DriverName(driverName),
		kubeletplugin.NodeName(d.gpus.node),
		kubeletplugin.KubeClient(client),
		kubeletplugin.RegistrarDirectoryPath(filepath.Join(kubelet, "plugins_registry")),
		kubeletplugin.PluginDataDirectoryPath(data),
		kubeletplugin.HealthService(false),
	)
	if err != nil {
		return err
	}
	defer helper.Stop()
	pools := map[string]resourceslice.Pool{d.gpus.node: {Slices: d.gpus.published()}}
	err = helper.PublishResources(ctx, resourceslice.DriverResources{Pools: pools})
	if err != nil {
		return err
	}
	if err := registered(ctx, helper); err != nil {
		return err
	}
	if err := told(ctx, client, d.gpus); err != nil {
		return err
	}
	log.Printf("serving %d simulated GPUs of %s", d.gpus.count, d.gpus.memory.String())
	if ready != "" {
		if err := os.WriteFile(ready, nil, 0o644); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "`file` with the API server's address and a token")
	node := flag.String("node", "node-1", "`name` of the node that has the GPUs")
	kubelet := flag.String("kubelet", "/var/lib/kubelet", "the kubelet's root `folder`")
	cdi := flag.String("cdi", "/var/run/cdi", "`folder` for CDI files")
	ready := flag.String("ready", "", "`file` that is made when the kubelet knows the driver")
	count := flag.Int("gpus", 2, "`number` of GPUs")
	size := flag.String("memory", "80Gi", "memory of one GPU, a Kubernetes `quantity`")
	model := flag.String("model", "NVIDIA A100-SXM4-80GB", "the GPUs' product `name`")
	least := flag.String("minimum", "1Mi", "smallest amount of memory, and the step: a `quantity`")
	cores := flag.Int64("cores", 0, "a second capacity of this `number`; 0: none")
	tainted := flag.String("tainted", "", "`device` that nothing new may be put on")
	partitions := flag.Int("partitions", 0, "`number` of MIG instances beside each GPU")
	flag.Parse()
	quantity, err := resource.ParseQuantity(*size)
	if err != nil {
		log.Fatalf("-memory: %v", err)
	}
	minimum, err := resource.ParseQuantity(*least)
	if err != nil {
		log.Fatalf("-minimum: %v", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	has := gpus{
		node: *node, model: *model, count: *count, memory: quantity,
		minimum: minimum, cores: *cores, tainted: *tainted, partitions: *partitions,
	}
	serves := driver{gpus: has, cdi: *cdi}
	if err := run(ctx, *kubeconfig, *kubelet, *ready, serves); err != nil {
		log.Fatal(err)
	}
}
