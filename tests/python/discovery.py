"""Finds an agent's services as generic gRPC tools do: by reflection and health alone.

Usage: discovery.py unix:///path/to/contid.sock
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as reflection

SERVICE = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def services(channel):
    """Lists services by the reflection protocol, version 1; its messages equal those of v1alpha."""
    call = channel.stream_stream(
        SERVICE,
        request_serializer=reflection.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection.ServerReflectionResponse.FromString,
    )
    request = reflection.ServerReflectionRequest(list_services="")
    answer = next(call(iter([request]), timeout=30))
    return [service.name for service in answer.list_services_response.service]


def main():
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(sys.argv[1], options=options) as channel:
        for name in services(channel):
            print(name)
        request = health_pb2.HealthCheckRequest(service="")
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=30)
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


if __name__ == "__main__":
    main()
