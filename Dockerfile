# The image that scripts/image makes without Docker: docker build -t localhost/viaduct:dev .
FROM rust:1.89 AS build
WORKDIR /viaduct
COPY . .
RUN scripts/build

FROM scratch
COPY --from=build /viaduct/target/dist/proxyd /viaduct/target/dist/viaduct /
ENTRYPOINT ["/proxyd"]
