#!/bin/sh
# A node: the first process of its own mount and PID namespaces. When it ends, everything in them ends.
# node.sh ROOT BIN NAME IP: ROOT has the node's private folders and its settings.
root=$1 bin=$2 name=$3 ip=$4
mount --make-rprivate /
mount -t proc proc /proc
for folder in $(cat "$root/private"); do mount --bind "$root$folder" "$folder"; done
# Pods' volumes are mounted by one process and seen by others.
mount --make-rshared /
PATH=$bin:$PATH
containerd --config "$root/containerd.toml" >"$root/containerd.log" 2>&1 &
until ctr --address /run/containerd/containerd.sock version >/dev/null 2>&1; do sleep 0.1; done
for image in "$root"/../images/*.tar; do
  ctr --address /run/containerd/containerd.sock -n k8s.io images import --local "$image" >/dev/null
done
kubelet --config="$root/kubelet.yaml" --kubeconfig="$root/kubeconfig" --hostname-override="$name" --node-ip="$ip" --v=2 >"$root/kubelet.log" 2>&1 &
wait
