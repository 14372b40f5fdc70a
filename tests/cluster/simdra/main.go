// simdra is a DRA driver for GPUs that do not exist. It stands where NVIDIA's driver would stand on
// a node: it publishes devices whose memory can be shared, and what the scheduler granted arrives
// in the containers as environment variables, by CDI. Each device says of itself that it is
// simulated.
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
)

// gpus is what one node has: devices of one model.
type gpus struct {
	node   string
	model  string
	count  int
	memory resource.Quantity
}

func (g gpus) name(index int) string { return fmt.Sprintf("gpu-%d", index) }

// uuid is made from the names alone, so that a device keeps it over a restart of the driver.
func (g gpus) uuid(device string) string {
	sum := sha256.Sum256([]byte(g.node + "/" + device))
	return fmt.Sprintf("GPU-%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func (g gpus) devices() []resourceapi.Device {
	gibibyte, whole := resource.MustParse("1Gi"), g.memory
	shared, simulated, kind := true, true, "gpu"
	var devices []resourceapi.Device
	for index := range g.count {
		name, model := g.name(index), g.model
		uuid := g.uuid(name)
		devices = append(devices, resourceapi.Device{
			Name:                     name,
			AllowMultipleAllocations: &shared,
			Attributes: map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{
				"uuid":        {StringValue: &uuid},
				"productName": {StringValue: &model},
				"type":        {StringValue: &kind},
				"simulated":   {BoolValue: &simulated},
			},
			Capacity: map[resourceapi.QualifiedName]resourceapi.DeviceCapacity{
				memory: {
					Value: whole,
					RequestPolicy: &resourceapi.CapacityRequestPolicy{
						Default: &whole,
						ValidRange: &resourceapi.CapacityRequestPolicyRange{
							Min: &gibibyte, Max: &whole, Step: &gibibyte,
						},
					},
				},
			},
		})
	}
	return devices
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
	slice := resourceslice.Slice{Devices: d.gpus.devices()}
	pools := map[string]resourceslice.Pool{d.gpus.node: {Slices: []resourceslice.Slice{slice}}}
	err = helper.PublishResources(ctx, resourceslice.DriverResources{Pools: pools})
	if err != nil {
		return err
	}
	if err := registered(ctx, helper); err != nil {
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
	flag.Parse()
	quantity, err := resource.ParseQuantity(*size)
	if err != nil {
		log.Fatalf("-memory: %v", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	has := gpus{node: *node, model: *model, count: *count, memory: quantity}
	serves := driver{gpus: has, cdi: *cdi}
	if err := run(ctx, *kubeconfig, *kubelet, *ready, serves); err != nil {
		log.Fatal(err)
	}
}
