from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BusinessTransactions(_message.Message):
    __slots__ = ("businessTransactions", "lostTransactions", "serverName")
    BUSINESSTRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    LOSTTRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    SERVERNAME_FIELD_NUMBER: _ClassVar[int]
    businessTransactions: _containers.RepeatedCompositeFieldContainer[BusinessTransaction]
    lostTransactions: int
    serverName: str
    def __init__(self, businessTransactions: _Optional[_Iterable[_Union[BusinessTransaction, _Mapping]]] = ..., lostTransactions: _Optional[int] = ..., serverName: _Optional[str] = ...) -> None: ...

class BusinessTransaction(_message.Message):
    __slots__ = ("name", "type", "application", "measureNames", "dimensionNames", "occurrences", "systemProfile")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PUREPATH: _ClassVar[BusinessTransaction.Type]
        USER_ACTION: _ClassVar[BusinessTransaction.Type]
        VISIT: _ClassVar[BusinessTransaction.Type]
    PUREPATH: BusinessTransaction.Type
    USER_ACTION: BusinessTransaction.Type
    VISIT: BusinessTransaction.Type
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    MEASURENAMES_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONNAMES_FIELD_NUMBER: _ClassVar[int]
    OCCURRENCES_FIELD_NUMBER: _ClassVar[int]
    SYSTEMPROFILE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: BusinessTransaction.Type
    application: str
    measureNames: _containers.RepeatedScalarFieldContainer[str]
    dimensionNames: _containers.RepeatedScalarFieldContainer[str]
    occurrences: _containers.RepeatedCompositeFieldContainer[BtOccurrence]
    systemProfile: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[BusinessTransaction.Type, str]] = ..., application: _Optional[str] = ..., measureNames: _Optional[_Iterable[str]] = ..., dimensionNames: _Optional[_Iterable[str]] = ..., occurrences: _Optional[_Iterable[_Union[BtOccurrence, _Mapping]]] = ..., systemProfile: _Optional[str] = ...) -> None: ...

class BtOccurrence(_message.Message):
    __slots__ = ("startTime", "endTime", "purePathId", "values", "dimensions", "actionName", "url", "query", "visitId", "visitTag", "userExperienceIndex", "converted", "responseTime", "cpuTime", "syncTime", "waitTime", "suspensionTime", "execTime", "duration", "failed", "nrOfActions", "clientFamily", "clientIP", "continent", "country", "city", "failedActions", "clientErrors", "exitActionFailed", "bounce", "osFamily", "osName", "connectionType", "convertedBy", "clientTime", "networkTime", "serverTime", "urlRedirectionTime", "dnsTime", "connectTime", "sslTime", "documentRequestTime", "documentResponseTime", "processingTime")
    STARTTIME_FIELD_NUMBER: _ClassVar[int]
    ENDTIME_FIELD_NUMBER: _ClassVar[int]
    PUREPATHID_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIONNAME_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    VISITID_FIELD_NUMBER: _ClassVar[int]
    VISITTAG_FIELD_NUMBER: _ClassVar[int]
    USEREXPERIENCEINDEX_FIELD_NUMBER: _ClassVar[int]
    CONVERTED_FIELD_NUMBER: _ClassVar[int]
    RESPONSETIME_FIELD_NUMBER: _ClassVar[int]
    CPUTIME_FIELD_NUMBER: _ClassVar[int]
    SYNCTIME_FIELD_NUMBER: _ClassVar[int]
    WAITTIME_FIELD_NUMBER: _ClassVar[int]
    SUSPENSIONTIME_FIELD_NUMBER: _ClassVar[int]
    EXECTIME_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    NROFACTIONS_FIELD_NUMBER: _ClassVar[int]
    CLIENTFAMILY_FIELD_NUMBER: _ClassVar[int]
    CLIENTIP_FIELD_NUMBER: _ClassVar[int]
    CONTINENT_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_FIELD_NUMBER: _ClassVar[int]
    CITY_FIELD_NUMBER: _ClassVar[int]
    FAILEDACTIONS_FIELD_NUMBER: _ClassVar[int]
    CLIENTERRORS_FIELD_NUMBER: _ClassVar[int]
    EXITACTIONFAILED_FIELD_NUMBER: _ClassVar[int]
    BOUNCE_FIELD_NUMBER: _ClassVar[int]
    OSFAMILY_FIELD_NUMBER: _ClassVar[int]
    OSNAME_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONTYPE_FIELD_NUMBER: _ClassVar[int]
    CONVERTEDBY_FIELD_NUMBER: _ClassVar[int]
    CLIENTTIME_FIELD_NUMBER: _ClassVar[int]
    NETWORKTIME_FIELD_NUMBER: _ClassVar[int]
    SERVERTIME_FIELD_NUMBER: _ClassVar[int]
    URLREDIRECTIONTIME_FIELD_NUMBER: _ClassVar[int]
    DNSTIME_FIELD_NUMBER: _ClassVar[int]
    CONNECTTIME_FIELD_NUMBER: _ClassVar[int]
    SSLTIME_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTREQUESTTIME_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTRESPONSETIME_FIELD_NUMBER: _ClassVar[int]
    PROCESSINGTIME_FIELD_NUMBER: _ClassVar[int]
    startTime: int
    endTime: int
    purePathId: str
    values: _containers.RepeatedScalarFieldContainer[float]
    dimensions: _containers.RepeatedScalarFieldContainer[str]
    actionName: str
    url: str
    query: str
    visitId: int
    visitTag: str
    userExperienceIndex: float
    converted: bool
    responseTime: float
    cpuTime: float
    syncTime: float
    waitTime: float
    suspensionTime: float
    execTime: float
    duration: float
    failed: bool
    nrOfActions: int
    clientFamily: str
    clientIP: str
    continent: str
    country: str
    city: str
    failedActions: int
    clientErrors: int
    exitActionFailed: bool
    bounce: bool
    osFamily: str
    osName: str
    connectionType: str
    convertedBy: _containers.RepeatedScalarFieldContainer[str]
    clientTime: float
    networkTime: float
    serverTime: float
    urlRedirectionTime: int
    dnsTime: int
    connectTime: int
    sslTime: int
    documentRequestTime: int
    documentResponseTime: int
    processingTime: int
    def __init__(self, startTime: _Optional[int] = ..., endTime: _Optional[int] = ..., purePathId: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ..., dimensions: _Optional[_Iterable[str]] = ..., actionName: _Optional[str] = ..., url: _Optional[str] = ..., query: _Optional[str] = ..., visitId: _Optional[int] = ..., visitTag: _Optional[str] = ..., userExperienceIndex: _Optional[float] = ..., converted: _Optional[bool] = ..., responseTime: _Optional[float] = ..., cpuTime: _Optional[float] = ..., syncTime: _Optional[float] = ..., waitTime: _Optional[float] = ..., suspensionTime: _Optional[float] = ..., execTime: _Optional[float] = ..., duration: _Optional[float] = ..., failed: _Optional[bool] = ..., nrOfActions: _Optional[int] = ..., clientFamily: _Optional[str] = ..., clientIP: _Optional[str] = ..., continent: _Optional[str] = ..., country: _Optional[str] = ..., city: _Optional[str] = ..., failedActions: _Optional[int] = ..., clientErrors: _Optional[int] = ..., exitActionFailed: _Optional[bool] = ..., bounce: _Optional[bool] = ..., osFamily: _Optional[str] = ..., osName: _Optional[str] = ..., connectionType: _Optional[str] = ..., convertedBy: _Optional[_Iterable[str]] = ..., clientTime: _Optional[float] = ..., networkTime: _Optional[float] = ..., serverTime: _Optional[float] = ..., urlRedirectionTime: _Optional[int] = ..., dnsTime: _Optional[int] = ..., connectTime: _Optional[int] = ..., sslTime: _Optional[int] = ..., documentRequestTime: _Optional[int] = ..., documentResponseTime: _Optional[int] = ..., processingTime: _Optional[int] = ...) -> None: ...
