"""Networks for hand-written digits that are fast on this computer, found in about two minutes."""

import nas

space, device, data = nas.space("mobilenet_v3_digits", resolutions=[12]), nas.device("host_ort"), nas.dataset("digits")
latency = nas.profile(space, device, budget="2min", out="run")
supernet = nas.train(space, data, epochs=10, out="run")
accuracy = nas.accuracy(space, supernet, data, subnets=100, held_out=20, out="run")
limit = 0.8 * latency.predict([space.biggest])[0]
front = nas.search(space, [accuracy, latency], limits={"latency_ms": limit}, seed=0, out="run")
print(latency, accuracy, front, front.choose().export("mobile", weights=supernet), sep="\n")
